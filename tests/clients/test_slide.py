"""Opening and reading slides: values, blocks, and what is said of files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest

import clients.slide
from clients.errors import SlideError
from clients.slide import open_slide

from .painted import write_slide


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (700, 1100, 3), dtype=np.uint8)


def test_reads_any_rectangle_across_blocks_exactly(tmp_path: Path, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.slide, "BLOCK_PX", 96)
    monkeypatch.setattr(clients.slide, "_MIN_CACHE_BYTES", 0)  # blocks are forgotten and read again
    with open_slide(write_slide(tmp_path / "s.tiff", noise, 0.5)) as slide:
        assert (slide.width_l0, slide.height_l0, slide.mpp, slide.bounds_l0) == (1100, 700, (0.5, 0.5), (0, 0, 1100, 700))
        for x, y, width, height in [(0, 0, 1100, 700), (95, 97, 2, 200), (1099, 699, 1, 1), (300, 0, 96, 96), (0, 600, 500, 100)]:
            np.testing.assert_array_equal(slide.read(0, x, y, width, height), noise[y : y + height, x : x + width])


def test_reads_lower_levels_in_their_own_pixels(tmp_path: Path, noise: np.ndarray) -> None:
    with open_slide(write_slide(tmp_path / "s.tiff", noise[:699, :1097], 0.5, levels=2)) as slide:
        assert slide.levels[1].downsample == 2.0  # though 699 / 350 is not
        np.testing.assert_allclose(slide.read(1, 10, 20, 50, 40), noise[40:120:2, 20:120:2], atol=60)  # OpenSlide interpolates
        assert slide.read(1, 500, 300, 49, 50).shape == (50, 49, 3)


def test_refuses_a_rectangle_outside(tmp_path: Path, noise: np.ndarray) -> None:
    with open_slide(write_slide(tmp_path / "s.tiff", noise, 0.5)) as slide, pytest.raises(ValueError, match="within 1100×700"):
        slide.read(0, 1090, 0, 11, 5)


def test_pixels_that_the_file_lacks_are_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert clients.slide._over_white(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_says_what_is_wrong_with_a_file(tmp_path: Path, noise: np.ndarray) -> None:
    with pytest.raises(SlideError, match=r"absent\.svs: expected a slide, found no such file"):
        open_slide(tmp_path / "absent.svs")
    text = tmp_path / "text.svs"
    text.write_text("not a slide")
    with pytest.raises(SlideError, match=r"text\.svs: expected a slide in a format that OpenSlide reads"):
        open_slide(text)
    with pytest.raises(SlideError, match="expected a slide in a format"):
        open_slide(tmp_path)


def test_a_slide_that_is_damaged_inside_names_the_place(tmp_path: Path, noise: np.ndarray) -> None:
    path = write_slide(tmp_path / "s.tiff", noise, 0.5)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0" * 20_000)
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"s\.tiff: damaged at level 0, block"):
        slide.read(0, 0, 0, 1100, 700)


def test_the_oracle_agrees(tmp_path: Path, noise: np.ndarray) -> None:
    path = write_slide(tmp_path / "s.tiff", noise, 0.5)
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as oracle:
        expected = np.asarray(oracle.read_region((37, 411), 0, (600, 250)))[..., :3]
        np.testing.assert_array_equal(slide.read(0, 37, 411, 600, 250), expected)
