"""The overlay's colors, legend and scale bar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clients.overlay import bar_length_um, draw_overlay, save_overlay
from serving.tasks import get_task

TASK = get_task("demo")
AREAS = dict.fromkeys(TASK.class_names, 1.0)


def saved(path: Path, shape: tuple[int, int], mpp: float | None) -> np.ndarray:
    save_overlay(path, np.full((*shape, 3), 9, np.uint8), TASK, AREAS, mpp)
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(("longest", "length"), [(1, 1), (1.99, 1), (2, 2), (4.9, 2), (5, 5), (999, 500), (1000, 1000), (0.05, 0.05)])
def test_bars_are_round_numbers(longest: float, length: float) -> None:
    assert bar_length_um(longest) == pytest.approx(length)


def test_the_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    picture = saved(tmp_path / "o.png", (100, 900), 4.0)  # a fifth of the width is 720 µm, so 500 µm: 125 pixels
    row = picture[100 + 15]
    assert (row[:8] == 255).all()
    assert (row[8:133] == 0).all()
    assert (row[133] == 255).all()


@pytest.mark.parametrize("width", [40, 200, 700, 2000])
def test_every_class_is_in_the_legend_and_the_slide_is_untouched(tmp_path: Path, width: int) -> None:
    picture = saved(tmp_path / "o.png", (50, width), 8.0)
    assert (picture[:50, :width] == 9).all()
    legend = picture[50:]
    for tissue in TASK.classes:
        assert (legend == tissue.color).all(axis=2).sum() == 15 * 15


def test_classes_are_blended_over_the_slide() -> None:
    labels = np.array([[0, 1]], np.uint8)
    overlay = draw_overlay(np.full((1, 2, 3), 100, np.uint8), labels, TASK)
    assert overlay[0, 0].tolist() == [100, 100, 100]
    np.testing.assert_allclose(overlay[0, 1], 55 + 0.45 * np.array(TASK.classes[0].color), atol=0.51)
