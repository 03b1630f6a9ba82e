"""Tiles of a slide, row by row, the next row being decoded while this one is used. Knows no model and no server."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from .frame import Frame, prefetch_frame, read_frame
from .slide import Rgb, Slide


class RowReader:
    """Reads square tiles; whenever a tile of another row is asked for, the row after that begins to be decoded.

    Args:
        corners_m: (x_m, y_m) of the upper left pixels of the tiles that will be asked for, rows from top to bottom.
    """

    def __init__(self, slide: Slide, frame: Frame, tile_px: int, corners_m: Iterable[tuple[int, int]]) -> None:
        self.slide = slide
        self.frame = frame
        self.tile_px = tile_px
        spans: dict[int, tuple[int, int]] = {}
        for x_m, y_m in corners_m:
            first, last = spans.get(y_m, (x_m, x_m))
            spans[y_m] = (min(first, x_m), max(last, x_m))
        rows = sorted(spans.items())
        self._behind = {y_m: following for (y_m, _), following in itertools.pairwise(rows)}
        self._row: int | None = None

    def __call__(self, x_m: int, y_m: int) -> Rgb:
        """One tile, uint8 RGB (tile_px, tile_px, 3); mirrored beyond the slide."""
        if y_m != self._row:
            self._row = y_m
            if y_m in self._behind:
                below_m, (first_m, last_m) = self._behind[y_m]
                prefetch_frame(self.slide, self.frame, first_m, below_m, last_m - first_m + self.tile_px, self.tile_px)
        return read_frame(self.slide, self.frame, x_m, y_m, self.tile_px, self.tile_px)
