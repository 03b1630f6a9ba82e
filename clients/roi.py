"""The part of a slide that is asked for, `--roi`: which cells are worth sending and which pixels keep their label. Knows no model."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from .errors import RegionError
from .placement import Placement
from .polygon_fill import PolygonFill
from .regions import read_regions
from .tiling import TileGrid

_MOSTLY_INSIDE = 0.99
_ROWS = 1024

_log = logging.getLogger(__name__)


class Region:
    """Polygons over a frame; a pixel belongs to it when its center lies in one.

    Args:
        polygons_m: in model pixels.
        shape_m: (height, width) of the frame.
    """

    def __init__(self, polygons_m: shapely.Geometry, shape_m: tuple[int, int]) -> None:
        self.polygons_m = polygons_m
        self.shape_m = shape_m
        self._fill = PolygonFill(polygons_m, shape_m[1])
        _, self._top, _, self._bottom = shapely.bounds(polygons_m)

    @property
    def area_px(self) -> float:
        """Model pixels inside the frame."""
        height, width = self.shape_m
        return float(shapely.area(shapely.intersection(self.polygons_m, shapely.box(0, 0, width, height))))

    def strip(self, y_m: int, rows: int) -> npt.NDArray[np.bool_]:
        """Which pixels of some rows belong to it, bool (rows, width_m)."""
        if y_m >= self._bottom or y_m + rows <= self._top:
            return np.zeros((rows, self.shape_m[1]), dtype=np.bool_)
        return self._fill.strip(y_m, rows)

    def cells(self, grid: TileGrid) -> npt.NDArray[np.bool_]:
        """Which cells hold a pixel of it, bool (height_c, width_c)."""
        cell_px = grid.cell_px
        parts = []
        for top_c in range(0, grid.height_c, rows_c := max(1, _ROWS // cell_px)):
            count_c = min(rows_c, grid.height_c - top_c)
            inside = self.strip(top_c * cell_px, count_c * cell_px)
            padded = np.pad(inside, ((0, 0), (0, grid.width_c * cell_px - inside.shape[1])))
            parts.append(padded.reshape(count_c, cell_px, grid.width_c, cell_px).any(axis=(1, 3)))
        return np.concatenate(parts)


def read_region(path: Path, placement: Placement, shape_m: tuple[int, int]) -> Region:
    """Polygons from GeoJSON, in QuPath's pixels (`Placement`).

    Raises:
        RegionError: no polygons, bad ones, or none of their area on the slide.
    """
    polygons_m = placement.to_m(read_regions(path))
    region = Region(polygons_m, shape_m)
    share = region.area_px / max(float(shapely.area(polygons_m)), 1e-12)
    if share == 0:
        raise RegionError(f"{path}: expected polygons that lie on the slide, {_where(polygons_m, placement)}: was it drawn on this slide?")
    if share < _MOSTLY_INSIDE:
        _log.warning("%s: %.0f %% of its area lies outside of the slide and counts for nothing", path, 100 * (1 - share))
    return region


def widen(cells: npt.NDArray[np.bool_], cells_around: int) -> npt.NDArray[np.bool_]:
    """The cells and those up to that many rows and columns away: what decides a label may lie beside the region."""
    reach = np.pad(cells, cells_around)
    for axis in (0, 1):
        counts = np.cumsum(np.insert(reach, 0, False, axis=axis), axis=axis, dtype=np.int32)
        window, side = 2 * cells_around + 1, cells.shape[axis]
        reach = np.take(counts, np.arange(window, window + side), axis=axis) > np.take(counts, np.arange(side), axis=axis)
    return reach


def _where(polygons_m: shapely.Geometry, placement: Placement) -> str:
    left, top, right, bottom = shapely.bounds(polygons_m) * np.tile(placement.scale_l0, 2) - np.tile(placement.origin_l0, 2)
    width, height = placement.size_l0
    return f"which is {width}×{height} level-0 pixels; they lie within ({left:.0f}, {top:.0f}) … ({right:.0f}, {bottom:.0f})"
