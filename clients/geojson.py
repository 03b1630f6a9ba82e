"""A finished mask as polygons for QuPath: `S.geojson.gz`, written feature by feature. Knows no slide and no server."""

from __future__ import annotations

import gzip
import io
import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import shapely

from serving.contract import TissueClass, TissueTask

from .label_store import StoredLabel, StoredLevel
from .outline import Corners, Outline, TooManyCornersError, find_corners, find_outlines
from .placement import Placement

MAX_LEVEL_PX = 64_000_000
MAX_CORNERS = 3_000_000  # about 100 bytes each while a class is traced
_ROWS = 512
_COMPRESSION = 3  # 6 takes twice the time for 5 % fewer bytes
_BUFFER_BYTES = 1 << 18
_NAMESPACE = uuid.UUID("5f1c0d0e-8c7b-4b0a-9a36-7b6f3a1f6c11")  # ids follow from slide, class and number: the same mask gives the same file

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolygonOptions:
    """How polygons differ from the mask; as it is, they differ in nothing.

    Attributes:
        min_area_um2: components of fewer square micrometers are left out of the file (never of the mask or its areas).
        simplify_px: tolerance of Douglas and Peucker's method, in pixels of the traced level; 0 = exact pixel edges. A polygon then lies within
            twice that of them. Each is simplified alone: neighbors overlap or gape by as much.
    """

    min_area_um2: float = 0.0
    simplify_px: float = 0.0


@dataclass(frozen=True)
class PolygonSummary:
    """What is in the file.

    Attributes:
        level: of the mask's pyramid, that was traced.
        level_mpp: micrometers per pixel of it, (x, y): the polygons' precision.
        polygons: written.
        dropped: below `min_area_um2`.
    """

    level: int
    level_mpp: tuple[float, float]
    polygons: int
    dropped: int


def write_geojson(
    path: Path, slide: str, label: StoredLabel, task: TissueTask, placement: Placement, options: PolygonOptions
) -> PolygonSummary:
    """Trace the mask and write one annotation per component; coordinates are QuPath's (`Placement`), areas are those of the traced pixels.

    Args:
        path: gets the file, named in `.gz`; the caller gives it its final name.
        slide: its name, from which the features' ids follow.
    """
    level, corners = _corners_of_first_level(label, task)
    features = Features(slide, level, placement, options)
    with (
        open(path, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=_COMPRESSION, fileobj=raw, mtime=0) as packed,
        io.BufferedWriter(packed, _BUFFER_BYTES) as file,
    ):
        file.write(b'{"type":"FeatureCollection","features":[')
        separator = b"\n"
        for tissue, its_corners in zip(task.classes, corners, strict=True):
            for feature in features.of_class(tissue, its_corners):
                file.write(separator + orjson.dumps(feature, option=orjson.OPT_SERIALIZE_NUMPY))
                separator = b",\n"
        file.write(b"\n]}\n")
    level_mpp = (placement.mpp_m[0] * level.factor, placement.mpp_m[1] * level.factor)
    return PolygonSummary(level.index, level_mpp, features.written, features.dropped)


class Features:
    """GeoJSON features in QuPath's convention.

    Attributes:
        written: how many there were.
        dropped: how many were too small.
    """

    def __init__(self, slide: str, level: StoredLevel, placement: Placement, options: PolygonOptions) -> None:
        self.slide = slide
        self.factor = level.factor
        self.placement = placement
        self.options = options
        self.written = 0
        self.dropped = 0
        self._pixel_um2 = placement.mpp_m[0] * placement.mpp_m[1] * level.factor**2
        self._tolerance_l0 = options.simplify_px * level.factor * min(placement.scale_l0)

    def of_class(self, tissue: TissueClass, corners: Corners) -> Iterator[dict[str, Any]]:
        """The annotations of a class."""
        for outline in find_outlines(corners):
            area_um2 = outline.area_px * self._pixel_um2
            if area_um2 < self.options.min_area_um2:
                self.dropped += 1
                continue
            self.written += 1
            yield self._feature(tissue, area_um2, self._rings(outline))

    def _feature(self, tissue: TissueClass, area_um2: float, rings: list[npt.NDArray[np.generic]]) -> dict[str, Any]:
        return {
            "type": "Feature",
            "id": str(uuid.uuid5(_NAMESPACE, f"{self.slide}/{tissue.name}/{self.written}")),
            "geometry": {"type": "Polygon", "coordinates": rings},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": tissue.name, "color": list(tissue.color)},
                "isLocked": True,
                "measurements": {"Area mm^2": round(area_um2 / 1e6, 9), "Area µm^2": round(area_um2, 3)},
            },
        }

    def _rings(self, outline: Outline) -> list[npt.NDArray[np.generic]]:
        exterior, *holes = (self.placement.from_m(ring * self.factor) for ring in (outline.exterior, *outline.holes))
        if self._tolerance_l0 > 0:
            exact = shapely.Polygon(exterior, holes)
            simple = shapely.simplify(exact, self._tolerance_l0, preserve_topology=True)
            if simple.is_valid and simple.geom_type == "Polygon" and not simple.is_empty:
                exterior, *holes = (np.asarray(ring.coords)[:-1] for ring in (simple.exterior, *simple.interiors))
        return [_closed(ring) for ring in (exterior, *holes)]


def _corners_of_first_level(label: StoredLabel, task: TissueTask) -> tuple[StoredLevel, list[Corners]]:
    """Of the finest level of at most `MAX_LEVEL_PX` pixels whose corners fit into memory."""
    small = [level for level in label.levels if level.size_px <= MAX_LEVEL_PX]
    for level in small[:-1]:
        try:
            return level, find_corners(level.strips(_ROWS), len(task.classes), MAX_CORNERS)
        except TooManyCornersError as error:
            _log.warning("%s: level %d has too rough edges to be traced, the next is taken: %s", label.name, level.index, error)
    return small[-1], find_corners(small[-1].strips(_ROWS), len(task.classes), small[-1].size_px * 4)


def _closed(ring: npt.NDArray[np.float64]) -> npt.NDArray[np.generic]:
    """Whole numbers as such: they are most, and shorter."""
    whole = ring.astype(np.int64)
    return np.concatenate([whole, whole[:1]]) if np.array_equal(ring, whole) else np.concatenate([ring, ring[:1]])
