"""Regions over a frame: cells, pixels, and where QuPath counts from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from scipy import ndimage

from clients.errors import RegionError
from clients.placement import Placement
from clients.roi import Region, read_region, widen
from clients.tiling import make_grid

SHAPE = (90, 131)  # no multiple of a cell
PLACEMENT = Placement(scale_l0=(2.5, 2.0), size_l0=(327, 180), origin_l0=(40, 20), mpp_m=(0.5, 0.5))


def write(path: Path, x0: float, y0: float, x1: float, y1: float) -> Path:
    path.write_text(json.dumps(shapely.geometry.mapping(shapely.box(x0, y0, x1, y1))))
    return path


def test_a_cell_belongs_when_any_of_its_pixels_does() -> None:
    region = Region(shapely.box(7.4, 10.6, 8.6, 89.4), SHAPE)
    pixels = np.zeros(SHAPE, bool)
    pixels[11:89, 7:9] = True
    np.testing.assert_array_equal(region.strip(0, 90), pixels)
    cells = region.cells(make_grid(SHAPE[1], SHAPE[0], 64, 8, 0.0))
    expected = np.zeros((12, 17), bool)
    expected[1:12, 0:2] = True
    np.testing.assert_array_equal(cells, expected)


def test_strips_are_the_whole_in_parts() -> None:
    region = Region(shapely.Point(60, 45).buffer(33.3), SHAPE)
    whole = region.strip(0, SHAPE[0])
    parts = [region.strip(y, min(7, SHAPE[0] - y)) for y in range(0, SHAPE[0], 7)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.sum() == pytest.approx(region.area_px, rel=0.02)


def test_counts_from_the_corner_of_the_scanned_rectangle(tmp_path: Path) -> None:
    # (10, 4) of QuPath is (50, 24) of level 0, is (20, 12) of the model.
    region = read_region(write(tmp_path / "r.geojson", 10, 4, 60, 44), PLACEMENT, SHAPE)
    assert region.polygons_m.equals(shapely.box(20, 12, 40, 32))
    back = PLACEMENT.from_m(np.array([[20, 12], [40, 32], [131, 90]]))
    np.testing.assert_array_equal(back, [[10, 4], [60, 44], [287, 160]])  # the last model pixel reaches over the edge at 327


def test_refuses_a_region_beside_the_slide(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match=r"327×180 level-0 pixels; they lie within \(500, 0\) … \(600, 50\)"):
        read_region(write(tmp_path / "r.geojson", 500, 0, 600, 50), PLACEMENT, SHAPE)


def test_warns_of_what_lies_outside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    region = read_region(write(tmp_path / "r.geojson", -140, -20, 60, 80), PLACEMENT, SHAPE)  # level 0: x −100 … 100
    assert "50 % of its area lies outside" in caplog.text
    assert region.area_px == 40 * 50


@pytest.mark.parametrize("cells_around", [1, 3])
def test_widens_like_a_square(cells_around: int) -> None:
    cells = np.random.default_rng(0).random((13, 17)) < 0.03
    square = np.ones((2 * cells_around + 1,) * 2)
    np.testing.assert_array_equal(widen(cells, cells_around), ndimage.binary_dilation(cells, structure=square))
