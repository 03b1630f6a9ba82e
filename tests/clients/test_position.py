"""The mask lies on the slide to the pixel, in every file: slides with a bounds offset, a fractional level, and sides that are no multiple of anything."""

from __future__ import annotations

import dataclasses
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import shapely
import shapely.geometry
import tifffile

from clients.label_store import open_label
from clients.outputs import Ngff, OutputOptions
from clients.polygon_fill import PolygonFill
from clients.segment import SegmentOptions, segment_slide
from clients.served_model import ServedModel
from clients.slide import open_slide

from .fake_triton import MODEL, FakeTriton
from .leica import write_leica
from .painted import Labels, contract, paint, stripes, write_slide


@dataclass(frozen=True)
class Case:
    """A slide, the mask that must come out, level-0 pixels per mask pixel and the corner of `openslide.bounds`."""

    path: Path
    truth_m: Labels
    scale: float
    origin_l0: tuple[int, int] = (0, 0)


def with_bounds(folder: Path) -> Case:
    scanned = stripes((704, 801))
    columns = np.flatnonzero(scanned[0])[[0, -1]]
    truth = np.zeros((1003, 1203), np.uint8)
    truth[88:792, 136:937] = scanned
    truth[np.ix_([88, 791], [136 + columns[0], 136 + columns[1]])] = 0
    path = write_leica(folder / "s.scn", [paint(scanned), paint(scanned[::2, ::2])], 0.5, (1203, 1003), (136, 88))
    return Case(path, truth, 1.0, (136, 88))


def with_a_fractional_level(folder: Path) -> Case:
    """The mask's pixels are those of level 1, of which level 0 is 2.499 times as large."""
    truth = stripes((441, 521), horizontal=True, margin=0)
    size = (1102, 1302)
    rows, columns = (np.arange(side) * part // side for side, part in zip(size, truth.shape, strict=True))
    with tifffile.TiffWriter(folder / "s.tiff") as writer:
        for level, labels in enumerate((truth[np.ix_(rows, columns)], truth)):
            resolution = (1e4 / 0.2, 1e4 / 0.2)
            writer.write(
                paint(labels), tile=(64, 64), photometric="rgb", compression="adobe_deflate", subfiletype=level,
                resolution=resolution, resolutionunit="CENTIMETER", metadata=None,
            )  # fmt: skip
    return Case(folder / "s.tiff", truth, (1302 / 521 + 1102 / 441) / 2)


def with_odd_sides(folder: Path) -> Case:
    """The mask's last row and column reach over the slide's edge."""
    truth = stripes((551, 402), margin=0)
    fine = truth.repeat(2, axis=0).repeat(2, axis=1)[:1101, :803]
    return Case(write_slide(folder / "s.tiff", paint(fine), 0.25), truth, 2.0)


@pytest.mark.parametrize("ngff", get_args(Ngff))
@pytest.mark.parametrize("make", [with_bounds, with_a_fractional_level, with_odd_sides])
def test_every_file_says_the_truth(tmp_path: Path, make: object, ngff: Ngff) -> None:
    assert callable(make)
    case: Case = make(tmp_path)
    out = tmp_path / "out"
    options = SegmentOptions(outputs=OutputOptions(ngff=ngff, no_tissue=True))
    with FakeTriton(contract()) as server, ServedModel(server.address, MODEL) as client:
        segment_slide(case.path, client, out, options, lambda done, total: None)
    label = open_label(out / "s.ome.zarr")
    assert label.version == ngff
    mask = np.asarray(label.levels[0].pixels[:])
    np.testing.assert_array_equal(mask, case.truth_m)
    with open_slide(case.path) as slide:
        size_l0, mpp_l0 = (slide.height_l0, slide.width_l0), slide.mpp
    assert mpp_l0 is not None
    assert label.mpp == pytest.approx((case.scale * mpp_l0[0], case.scale * mpp_l0[1]), rel=1e-3)
    np.testing.assert_array_equal(polygons_on_level_0(out / "s.geojson.gz", size_l0, case.origin_l0), truth_on_level_0(case, size_l0))


def truth_on_level_0(case: Case, size_l0: tuple[int, int]) -> Labels:
    """The label under the center of each level-0 pixel."""
    rows, columns = (
        np.minimum(((np.arange(side) + 0.5) / case.scale).astype(int), cells - 1)
        for side, cells in zip(size_l0, case.truth_m.shape, strict=True)
    )
    return case.truth_m[np.ix_(rows, columns)]


def polygons_on_level_0(path: Path, size_l0: tuple[int, int], origin_l0: tuple[int, int]) -> Labels:
    """What the GeoJSON says of each level-0 pixel, from its class names alone."""
    labels = np.zeros(size_l0, np.uint8)
    names = list(contract().task.class_names)
    for feature in json.loads(gzip.decompress(path.read_bytes()))["features"]:
        shape = shapely.geometry.shape(feature["geometry"])
        placed = shapely.transform(shape, lambda points: points + np.array(origin_l0))
        inside = PolygonFill(placed, size_l0[1]).strip(0, size_l0[0])
        assert not labels[inside].any()  # no two polygons have a pixel in common
        labels[inside] = names.index(feature["properties"]["classification"]["name"]) + 1
    return labels


def test_the_region_of_interest_is_cut_to_the_pixel_and_the_rest_is_not_sent(tmp_path: Path) -> None:
    case = with_bounds(tmp_path)
    triangle = shapely.Polygon([(100.2, 50.3), (420.7, 90.1), (150.4, 333.3)])  # as drawn in QuPath: from the corner of the bounds
    (tmp_path / "roi.geojson").write_text(json.dumps(shapely.geometry.mapping(triangle)))
    inside = PolygonFill(shapely.transform(triangle, lambda points: points + np.array((136, 88))), 1203).strip(0, 1003)
    whole = SegmentOptions(outputs=OutputOptions(geojson=False))
    part = dataclasses.replace(whole, outputs=dataclasses.replace(whole.outputs, roi=tmp_path / "roi.geojson"))
    with FakeTriton(contract()) as server, ServedModel(server.address, MODEL) as client:
        all_of_it = segment_slide(case.path, client, tmp_path / "whole", whole, lambda done, total: None)
        some = segment_slide(case.path, client, tmp_path / "part", part, lambda done, total: None)
    assert all_of_it is not None
    assert some is not None
    mask = np.asarray(open_label(tmp_path / "part/s.ome.zarr").levels[0].pixels[:])
    np.testing.assert_array_equal(mask, np.where(inside, case.truth_m, 0))
    assert some.tissue_tiles < all_of_it.tissue_tiles / 2
    assert sum(some.areas_mm2.values()) == pytest.approx((mask > 0).sum() * 0.25e-6)
    assert some.outputs["roi"] == {"file": "roi.geojson", "area_mm2": pytest.approx(triangle.area * 0.25e-6, abs=1e-6)}
