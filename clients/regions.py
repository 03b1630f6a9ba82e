"""Polygons that a person drew, read from GeoJSON as QuPath exports it, and checked. Knows no slide."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.errors
import shapely.geometry

from .errors import RegionError

_AREAS = ("Polygon", "MultiPolygon")


def read_regions(path: Path) -> shapely.Geometry:
    """All polygons of a file (`.geojson`, `.json`, also `.gz`) as one valid geometry, in the file's own pixels.

    A FeatureCollection, a Feature, a bare geometry or a list of these; what overlaps is joined.

    Raises:
        RegionError: no such file, no GeoJSON, no polygon in it, or one that crosses itself.
    """
    parts = [_checked(path, number, geometry) for number, geometry in enumerate(_geometries(path, _load(path)), start=1)]
    if not parts:
        raise RegionError(f"{path}: expected polygons, found none: draw an area in QuPath and export it as GeoJSON")
    return shapely.union_all(parts)


def _load(path: Path) -> Any:
    try:
        raw = path.read_bytes()
        return json.loads(gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw)
    except FileNotFoundError:
        raise RegionError(f"{path}: expected a GeoJSON file, found no such file: check the path") from None
    except (OSError, EOFError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RegionError(f"{path}: expected GeoJSON, cannot read it: {error}: export it from QuPath again") from error


def _geometries(path: Path, node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for child in node:
            yield from _geometries(path, child)
        return
    kind = node.get("type") if isinstance(node, dict) else None
    if kind == "FeatureCollection":
        yield from _geometries(path, node.get("features", []))
    elif kind == "Feature":
        yield from _geometries(path, node.get("geometry"))
    elif kind == "GeometryCollection":
        yield from _geometries(path, node.get("geometries", []))
    elif kind in _AREAS:
        yield node
    else:
        told = f"a {kind}" if kind else f"{str(node)[:60]!r}"
        raise RegionError(f"{path}: expected polygons alone (an area can lie in no point or line), found {told}: remove it from the file")


def _checked(path: Path, number: int, raw: dict[str, Any]) -> shapely.Geometry:
    try:
        geometry = shapely.force_2d(shapely.geometry.shape(raw))
    except (shapely.errors.ShapelyError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise RegionError(f"{path}: expected rings of at least three points in polygon {number}, got others: {error}") from error
    if geometry.is_empty or not np.isfinite(shapely.get_coordinates(geometry)).all():
        raise RegionError(f"{path}: expected finite coordinates in polygon {number}, it is empty or has others")
    if not geometry.is_valid:
        reason = shapely.is_valid_reason(geometry)
        raise RegionError(f"{path}: expected an outline that does not cross itself in polygon {number}, got {reason}: redraw it there")
    return geometry
