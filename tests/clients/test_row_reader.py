"""Reading ahead changes no pixel, and asks for the row below, no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clients.frame import Frame, read_frame
from clients.row_reader import RowReader
from clients.slide import open_slide

from .painted import write_slide

CORNERS = [(x, y) for y in (-16, 60, 140) for x in ((0, 96) if y != 60 else (96, 288))]


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_tiles_are_those_of_the_frame_and_the_row_below_is_decoded_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (512, 700, 3), dtype=np.uint8)
    path = write_slide(tmp_path / "noise.tiff", rgb, 0.5)
    with open_slide(path) as slide, open_slide(path) as plain:
        frame = Frame(0, scale, scale, int(700 / scale), int(300 / scale), 0.5 * scale, 0.5 * scale)
        asked: list[tuple[int, int, int, int]] = []
        real = slide.prefetch

        def recorded(level: int, x: int, y: int, width: int, height: int) -> None:
            asked.append((x, y, width, height))
            real(level, x, y, width, height)

        monkeypatch.setattr(slide, "prefetch", recorded)
        read = RowReader(slide, frame, 128, CORNERS)
        for x_m, y_m in CORNERS:
            np.testing.assert_array_equal(read(x_m, y_m), read_frame(plain, frame, x_m, y_m, 128, 128))
        if scale == 1:
            assert asked == [(96, 60, 320, 128), (0, 140, 224, 128)]
        assert len(asked) == 2
