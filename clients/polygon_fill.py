"""Polygons into pixels, strip by strip: a pixel is inside when its center is. Knows no file and no slide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely


class PolygonFill:
    """Fills a polygon, or several that do not overlap, by the even-odd rule.

    Args:
        polygons: valid; in pixels of the image, pixel i covers [i, i + 1).
        width: of the image in pixels; what lies outside is cut off.
    """

    def __init__(self, polygons: shapely.Geometry, width: int) -> None:
        self.width = width
        starts, ends = _edges(polygons)
        is_down = starts[:, 1] <= ends[:, 1]
        self._upper = np.where(is_down[:, None], starts, ends)
        self._lower = np.where(is_down[:, None], ends, starts)

    def strip(self, top: int, rows: int) -> npt.NDArray[np.bool_]:
        """Which pixels of the rows from `top` on are inside, bool (rows, width)."""
        upper, lower = self._upper, self._lower
        # An edge crosses the centers of the rows first … last − 1; half open, so that the end of one edge is not the start of the next.
        first = np.clip(np.ceil(upper[:, 1] - 0.5), top, top + rows).astype(np.int64)
        last = np.clip(np.ceil(lower[:, 1] - 0.5), top, top + rows).astype(np.int64)
        counts = last - first
        edge = np.repeat(np.arange(len(counts)), counts)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        slope = (lower[edge, 0] - upper[edge, 0]) / (lower[edge, 1] - upper[edge, 1])
        x = upper[edge, 0] + (row + 0.5 - upper[edge, 1]) * slope
        column = np.clip(np.ceil(x - 0.5), 0, self.width).astype(np.int64)
        crossings = np.zeros((rows, self.width + 1), dtype=np.uint8)
        np.bitwise_xor.at(crossings, (row - top, column), 1)
        inside: npt.NDArray[np.bool_] = np.bitwise_xor.accumulate(crossings[:, :-1], axis=1).view(np.bool_)
        return inside


def _edges(polygons: shapely.Geometry) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    rings = [np.asarray(ring.coords)[:, :2] for part in shapely.get_parts(polygons) for ring in (part.exterior, *part.interiors)]
    return np.concatenate([ring[:-1] for ring in rings]), np.concatenate([ring[1:] for ring in rings])
