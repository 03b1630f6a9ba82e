"""Generated slides, opened by OpenSlide: size, scale, pyramid, and truth that lies on the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image
from scipy import ndimage

from serving.background import to_gray
from training.errors import DataError
from training.slides import truth_path, write_slide


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    slide = tmp_path_factory.mktemp("slides") / "s.tiff"
    write_slide(slide, 7, 2050, 1300, mpp=0.25)
    return slide


def test_openslide_opens_it_with_its_scale_and_pyramid(path: Path) -> None:
    with openslide.OpenSlide(str(path)) as slide:
        assert slide.level_dimensions == ((2050, 1300), (1025, 650), (512, 325))
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.25, rel=1e-6)
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(0.25, rel=1e-6)
        assert slide.properties["openslide.level[0].tile-width"] == "256"


def test_truth_lies_on_the_pixels(path: Path) -> None:
    truth = np.asarray(Image.open(truth_path(path)))
    with openslide.OpenSlide(str(path)) as slide:
        rgb = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    assert truth.shape == rgb.shape[:2]
    tissue = truth > 0
    glass = ndimage.binary_erosion(~tissue, iterations=12)
    assert to_gray(rgb)[glass].min() > 200
    assert to_gray(rgb)[tissue].mean() < 180
    # Shifted against the picture by a few pixels, the truth fits worse: it lies where it should.
    bright = to_gray(rgb) > 200
    agreement = {
        shift: (np.roll(~tissue, shift, axis=(0, 1)) == bright)[50:-50, 50:-50].mean() for shift in [(0, 0), (3, 0), (0, 3), (-3, -3)]
    }
    assert max(agreement, key=lambda shift: agreement[shift]) == (0, 0)


def test_two_islands_of_all_four_tissues_on_glass(path: Path) -> None:
    truth = np.asarray(Image.open(truth_path(path)))
    assert set(np.unique(truth)) == {0, 1, 2, 3, 4}
    assert 0.2 < (truth > 0).mean() < 0.6
    components, _ = ndimage.label(truth > 0)
    sizes = np.bincount(components.ravel())[1:]
    assert (sizes > 0.1 * truth.size).sum() == 2
    assert not truth[:20].any()
    assert not truth[:, :20].any()


def test_refuses_a_slide_too_small_for_two_islands(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 512 px, got 511×600"):
        write_slide(tmp_path / "s.tiff", 1, 511, 600)
    assert list(tmp_path.iterdir()) == []
