"""The tissue mask on glass, on nothing but tissue, and on generated slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from clients.slide import open_slide
from clients.tissue import MARGIN_UM, THUMBNAIL_MPP, mask_saturated, otsu_threshold, tissue_mask
from training.slides import truth_path, write_slide


def test_otsu_agrees_with_the_library() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(0.03, 0.01, 5000), random.normal(0.4, 0.1, 3000)]).clip(0, 1).astype(np.float32)
    library = float(threshold_otsu(values, nbins=256))  # type: ignore[no-untyped-call]
    assert otsu_threshold(values) == pytest.approx(library, abs=0.01)


@pytest.mark.parametrize(("level", "expected"), [(0.01, False), (0.5, True)])
def test_a_slide_of_one_kind_is_not_cut_in_two(level: float, expected: bool) -> None:
    saturation = np.random.default_rng(0).normal(level, 0.01, (80, 80)).clip(0, 1).astype(np.float32)
    mask = mask_saturated(saturation, 64, 8)
    assert (mask == expected).all()


def test_specks_are_dropped_and_tissue_gets_a_margin() -> None:
    saturation = np.zeros((100, 100), np.float32)
    saturation[10:12, 10:12] = 0.6  # 256 µm²
    saturation[40:60, 40:60] = 0.6
    mask = mask_saturated(saturation, 64, 8)
    assert not mask[:20, :20].any()
    assert mask[37:63, 50].all()
    assert not mask[:34].any()


def test_finds_all_tissue_of_a_generated_slide_and_glass_only_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "s.tiff"
    write_slide(path, 5, 1536, 1024)
    truth = np.asarray(Image.open(truth_path(path))) > 0
    with open_slide(path) as slide:
        mask = tissue_mask(slide, (0.5, 0.5), (256, 384)).repeat(4, axis=0).repeat(4, axis=1)
    assert (mask & truth).sum() / truth.sum() > 0.998
    distance_um = ndimage.distance_transform_edt(~truth) * 0.5
    assert distance_um[mask].max() < MARGIN_UM * 2**0.5 + 3 * THUMBNAIL_MPP
