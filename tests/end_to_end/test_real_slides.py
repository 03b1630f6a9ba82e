"""Real slides through the served demo model. What tissue it says is of no account: it has seen generated tissue alone. Where it says it, is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import ImageLabel

from clients.omezarr import read_label
from clients.slide import open_slide
from serving.background import background_mask

from .conftest import SLIDES, WholeWay, histoserve, needs_slides

pytestmark = [pytest.mark.triton, pytest.mark.slide, needs_slides]


@pytest.fixture(scope="module")
def output(whole_way: WholeWay, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    names = ["cmu-1-small-region.svs", "luna-1065626.svs"]
    done = histoserve("segment", *(SLIDES / name for name in names), "-o", folder, "--model", "demo", "--repository", whole_way.repository)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("name", "mpp"), [("cmu-1-small-region", 0.499), ("luna-1065626", 0.5026)])
def test_the_scale_is_the_slide_s_own(output: Path, name: str, mpp: float) -> None:
    store = output / f"{name}.ome.zarr"
    ImageLabel.from_zarr(zarr.open_group(store / "labels" / "demo", mode="r"))
    assert read_label(store).mpp == (mpp, mpp)
    with open_slide(SLIDES / f"{name}.svs") as slide:
        assert read_label(store).labels.shape == (slide.height_l0, slide.width_l0)


def test_the_mask_is_not_shifted_against_the_slide(output: Path) -> None:
    """Background of the mask against the slide's own bright pixels: moved by a few pixels it fits worse."""
    mask = read_label(output / "cmu-1-small-region.ome.zarr").labels
    with open_slide(SLIDES / "cmu-1-small-region.svs") as slide:
        rgb = slide.read(0, 0, 0, slide.width_l0, slide.height_l0)
    glass = background_mask(rgb, 200, 600)
    shifts = [(0, 0), (4, 0), (-4, 0), (0, 4), (0, -4)]
    agreement = {shift: (np.roll(mask == 0, shift, axis=(0, 1)) == glass)[20:-20, 20:-20].mean() for shift in shifts}
    assert max(agreement, key=lambda shift: agreement[shift]) == (0, 0)
    assert agreement[(0, 0)] > 0.95


def test_the_areas_are_those_of_the_mask(output: Path) -> None:
    summary = json.loads((output / "cmu-1-small-region.summary.json").read_text())
    label = read_label(output / "cmu-1-small-region.ome.zarr")
    for index, name in enumerate(label.class_names, start=1):
        assert summary["areas_mm2"][name] == pytest.approx((label.labels == index).sum() * 0.499**2 / 1e6, abs=1e-6)
    assert summary["tissue_tiles"] < summary["tiles"]
