"""Polygons for QuPath: what they say, which level is traced, what is left out."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import shapely.geometry
from scipy import ndimage

import clients.geojson
from clients.geojson import PolygonOptions, PolygonSummary, write_geojson
from clients.label_store import open_label
from clients.omezarr import STRIP_PX, LabelWriter
from clients.placement import Placement
from clients.polygon_fill import PolygonFill
from serving.tasks import get_task

TASK = get_task("demo")
PLACEMENT = Placement(scale_l0=(2.0, 2.0), size_l0=(1199, 999), origin_l0=(100, 50), mpp_m=(0.5, 0.4))
SHAPE = (500, 600)


def blobs(seed: int, shape: tuple[int, int] = SHAPE, smoothness: float = 6) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smoothness)
    labels: np.ndarray = np.digitize(field, np.quantile(field, [0.4, 0.6, 0.7, 0.9])).astype(np.uint8)
    return labels


def write(folder: Path, labels: np.ndarray, options: PolygonOptions | None = None) -> tuple[list[dict[str, Any]], PolygonSummary]:
    store = folder / "s.ome.zarr"
    writer = LabelWriter(store, TASK, labels.shape, (0.5, 0.4), {})
    for top in range(0, len(labels), STRIP_PX):
        writer.write(top, labels[top : top + STRIP_PX])
    writer.finish(np.zeros((*labels.shape, 3), np.uint8), 1)
    writer.publish()
    path = folder / "s.geojson.gz"
    summary = write_geojson(path, "s.svs", open_label(store), TASK, PLACEMENT, options or PolygonOptions())
    collection = json.loads(gzip.decompress(path.read_bytes()))
    assert collection["type"] == "FeatureCollection"
    return collection["features"], summary


def paint_back(features: Sequence[dict[str, Any]], shape: tuple[int, int], scale: float) -> np.ndarray:
    """Labels of model pixels, from the polygons and their class names alone."""
    labels = np.zeros(shape, np.uint8)
    for value, tissue in enumerate(TASK.classes, start=1):
        parts = [
            shapely.geometry.shape(feature["geometry"])
            for feature in features
            if feature["properties"]["classification"]["name"] == tissue.name
        ]
        if parts:
            placed = shapely.transform(shapely.MultiPolygon(parts), lambda points: (points + [100, 50]) / scale)  # noqa: RUF005
            labels[PolygonFill(placed, shape[1]).strip(0, shape[0])] = value
    return labels


def test_the_polygons_are_the_mask(tmp_path: Path) -> None:
    labels = blobs(0)
    features, summary = write(tmp_path, labels)
    assert (summary.level, summary.level_mpp, summary.dropped) == (0, (0.5, 0.4), 0)
    assert summary.polygons == len(features) == sum(ndimage.label(labels == value)[1] for value in range(1, 5))
    assert all(shapely.geometry.shape(feature["geometry"]).is_valid for feature in features)
    inside = np.s_[:499, :599]  # of the last model pixels the slide ends half way
    np.testing.assert_array_equal(paint_back(features, SHAPE, 2)[inside], labels[inside])


def test_a_feature_is_what_qupath_expects(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[490:, 580:] = 2  # the last model pixels reach over the slide's edge
    labels[495, 590] = 0
    (feature,), _ = write(tmp_path, labels)
    assert feature["type"] == "Feature"
    assert feature["geometry"]["type"] == "Polygon"
    exterior, hole = feature["geometry"]["coordinates"]
    assert exterior == [[1060, 930], [1099, 930], [1099, 949], [1060, 949], [1060, 930]]
    assert hole[0] == hole[-1]
    assert sorted(hole[1:]) == [[1080, 940], [1080, 942], [1082, 940], [1082, 942]]
    gland = TASK.classes[1]
    assert feature["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "gland", "color": list(gland.color)},
        "isLocked": True,
        "measurements": {"Area mm^2": pytest.approx(199 * 0.2e-6), "Area µm^2": pytest.approx(199 * 0.2)},
    }
    assert len(feature["id"]) == 36


def test_ids_are_different_and_the_file_is_the_same_every_time(tmp_path: Path) -> None:
    features, _ = write(tmp_path, blobs(1))
    before = (tmp_path / "s.geojson.gz").read_bytes()
    assert len({feature["id"] for feature in features}) == len(features)
    write(tmp_path, blobs(1))
    assert (tmp_path / "s.geojson.gz").read_bytes() == before


def test_small_components_are_left_out_and_counted(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[10:20, 10:20] = 1  # 20 µm²
    labels[100:110, 10:19] = 1  # 18 µm²
    features, summary = write(tmp_path, labels, PolygonOptions(min_area_um2=20))
    assert [feature["properties"]["measurements"]["Area µm^2"] for feature in features] == [20]
    assert summary.dropped == 1


def test_simplified_polygons_are_valid_smaller_and_near(tmp_path: Path) -> None:
    labels = blobs(2, (200, 200))
    exact, _ = write(tmp_path, labels)
    simple, _ = write(tmp_path, labels, PolygonOptions(simplify_px=1))
    counts = [sum(len(ring) for feature in features for ring in feature["geometry"]["coordinates"]) for features in (exact, simple)]
    assert counts[1] < counts[0] / 2
    for before, after in zip(exact, simple, strict=True):
        shapes = [shapely.geometry.shape(feature["geometry"]) for feature in (before, after)]
        assert shapes[1].is_valid
        assert shapely.hausdorff_distance(*shapes) <= 2 * 2 + 1e-6  # a model pixel is two of level 0; the ring's ends are dropped last
        assert before["properties"] == after["properties"]


def test_a_large_mask_is_traced_on_a_coarser_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = blobs(3, (1030, 701))
    monkeypatch.setattr(clients.geojson, "MAX_LEVEL_PX", 300_000)
    features, summary = write(tmp_path, labels)
    assert (summary.level, summary.level_mpp) == (1, (1.0, 0.8))
    inside = np.s_[:249, :299]  # that lie within PLACEMENT's slide
    np.testing.assert_array_equal(paint_back(features, (515, 351), 4)[inside], labels[::2, ::2][inside])


def test_a_rough_mask_is_traced_on_a_coarser_level_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clients.geojson, "MAX_CORNERS", 9000)
    with caplog.at_level(logging.WARNING):
        _, summary = write(tmp_path, blobs(4, (600, 600), 2))
    assert summary.level == 1
    assert "level 0 has too rough edges" in caplog.text


def test_an_empty_mask_gives_an_empty_collection(tmp_path: Path) -> None:
    assert write(tmp_path, np.zeros(SHAPE, np.uint8))[0] == []
