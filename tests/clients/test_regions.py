"""What is accepted as polygons, and what is said of the rest."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from clients.errors import RegionError
from clients.regions import read_regions

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}
OTHER = {"type": "MultiPolygon", "coordinates": [[[[2, 2], [6, 2], [6, 6], [2, 6], [2, 2]]]]}
FEATURE = {"type": "Feature", "geometry": SQUARE, "properties": {"objectType": "annotation"}}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        SQUARE,
        FEATURE,
        [FEATURE],
        {"type": "FeatureCollection", "features": [FEATURE]},
        {"type": "GeometryCollection", "geometries": [SQUARE]},
    ],
)
def test_reads_all_that_qupath_and_others_export(tmp_path: Path, content: Any) -> None:
    assert read_regions(write(tmp_path / "a.geojson", content)).equals(shapely.box(0, 0, 4, 4))


def test_reads_packed_files(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(json.dumps(FEATURE).encode()))
    assert read_regions(path).area == 16


def test_joins_what_overlaps(tmp_path: Path) -> None:
    assert read_regions(write(tmp_path / "a.geojson", [SQUARE, OTHER])).area == 28


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"type": "FeatureCollection", "features": []}, r"a\.geojson: expected polygons, found none: draw"),
        ({"type": "Point", "coordinates": [1, 2]}, "found a Point: remove it"),
        (
            {"type": "Polygon", "coordinates": [[[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]]},
            r"in polygon 1, got Self-intersection\[2 2\]: redraw",
        ),
        ({"type": "Polygon", "coordinates": [[[0, 0], [4, 4]]]}, "at least three points in polygon 1"),
        ({"type": "Polygon", "coordinates": []}, "in polygon 1, it is empty"),
        ({"answer": 42}, "found \"{'answer': 42}\""),
        ("text", "found 'text': remove"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        read_regions(write(tmp_path / "a.geojson", content))


def test_says_that_a_file_is_missing_or_no_json(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match="found no such file"):
        read_regions(tmp_path / "absent.geojson")
    (tmp_path / "b.geojson").write_text("{")
    with pytest.raises(RegionError, match="cannot read it"):
        read_regions(tmp_path / "b.geojson")
