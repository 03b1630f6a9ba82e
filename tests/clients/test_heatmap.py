"""Heat maps: each thumbnail pixel shows its own cell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clients.blend import CellRows
from clients.heatmap import Heatmaps

from .painted import CELL_PX, contract

TASK = contract("cam").task
HEIGHT_C, WIDTH_C, FACTOR = 20, 31, 8
EVIDENCE = np.random.default_rng(0).random((5, HEIGHT_C, WIDTH_C)).astype(np.float32)


def rows(start_c: int, stop_c: int) -> CellRows:
    shape = (stop_c - start_c, WIDTH_C)
    return CellRows(EVIDENCE[:, start_c:stop_c], np.ones(shape, bool), np.zeros((shape[0] * CELL_PX, shape[1] * CELL_PX), bool))


def test_each_pixel_shows_the_cell_at_its_center() -> None:
    heatmaps = Heatmaps(TASK, (10, 16), FACTOR, CELL_PX)  # the last column's center lies beyond the last cell
    for start_c in range(0, HEIGHT_C, 3):
        heatmaps.add(rows(start_c, min(start_c + 3, HEIGHT_C)))
    picked = EVIDENCE[1:, 1::2][:, :, np.minimum(np.arange(1, 32, 2), WIDTH_C - 1)]
    np.testing.assert_array_equal(heatmaps.evidence, np.rint(picked * 255))


def test_goes_on_after_an_interruption() -> None:
    whole, first, second = (Heatmaps(TASK, (10, 16), FACTOR, CELL_PX) for _ in range(3))
    whole.add(rows(0, HEIGHT_C))
    first.add(rows(0, 7))
    second.restore(first.state())
    second.add(rows(7, HEIGHT_C))
    np.testing.assert_array_equal(second.evidence, whole.evidence)


def test_pictures_leave_the_slide_where_there_is_no_evidence_and_glow_where_there_is(tmp_path: Path) -> None:
    heatmaps = Heatmaps(TASK, (10, 16), FACTOR, CELL_PX)
    heatmaps.evidence[0, :5] = 255
    paths = heatmaps.save(tmp_path, "s", np.full((10, 16, 3), 100, np.uint8))
    assert [path.name for path in paths] == [f"s.heatmap.{name}.png" for name in ("tumor", "gland", "stroma", "necrosis")]
    tumor, gland = (np.asarray(Image.open(path))[:10, :16] for path in paths[:2])
    np.testing.assert_array_equal(tumor[:5], np.full((5, 16, 3), np.rint(np.array([255, 255, 235]) * 0.75 + 25)))
    np.testing.assert_array_equal(tumor[5:], np.full((5, 16, 3), 100))
    np.testing.assert_array_equal(gland, np.full((10, 16, 3), 100))
