"""The grid of overlapping tiles over a slide, in cells. Knows no pixels and no server. FRAMES.md shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class TileGrid:
    """Tiles of `tile_c` cells every `stride_c` cells, the first starting `halo_c` before the slide, so that the halo, whose weight is 0, lies outside.

    Attributes:
        cell_px: model pixels per cell.
        width_c: cells that cover the slide; the last may reach over its edge.
        halo_c: outer cells of a tile that count nothing.
    """

    cell_px: int
    tile_c: int
    stride_c: int
    width_c: int
    height_c: int

    @property
    def overlap_c(self) -> int:
        return self.tile_c - self.stride_c

    @property
    def halo_c(self) -> int:
        return self.overlap_c // 4

    @property
    def columns(self) -> int:
        return self._count(self.width_c)

    @property
    def rows(self) -> int:
        return self._count(self.height_c)

    def origin_c(self, index: int) -> int:
        """First cell of the tile in that row or column; negative for the first where there is a halo."""
        return index * self.stride_c - self.halo_c

    def _count(self, side_c: int) -> int:
        reach_c = self.tile_c - 2 * self.halo_c  # what a tile contributes to
        return max(0, math.ceil((side_c - reach_c) / self.stride_c)) + 1


def make_grid(width_m: int, height_m: int, tile_px: int, cell_px: int, overlap: float) -> TileGrid:
    """The grid for a slide of that many model pixels.

    Args:
        overlap: share of a tile's side that it has in common with the next, 0…0.75; rounded to whole cells.

    Raises:
        ValueError: the overlap is outside its range.
    """
    if not 0 <= overlap <= 0.75:
        raise ValueError(f"overlap: expected 0…0.75 of a tile's side, got {overlap}")
    tile_c = tile_px // cell_px
    stride_c = tile_c - round(overlap * tile_c)
    return TileGrid(cell_px, tile_c, stride_c, math.ceil(width_m / cell_px), math.ceil(height_m / cell_px))


def taper_window(grid: TileGrid) -> npt.NDArray[np.float32]:
    """Weight of each cell of a tile, float32 (tile_c, tile_c): 0 on the outer halo, then rising to 1, so that neighbors' weights add up to 1."""
    ramp_c = grid.overlap_c - 2 * grid.halo_c
    from_edge = np.minimum(np.arange(grid.tile_c), np.arange(grid.tile_c)[::-1]) + 0.5 - grid.halo_c
    side = np.clip(from_edge / ramp_c, 0, 1) if ramp_c else np.ones(grid.tile_c)
    window: npt.NDArray[np.float32] = np.outer(side, side).astype(np.float32)
    return window


def tiles_with_tissue(grid: TileGrid, tissue_c: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(row, column) of every tile that contributes to a cell with tissue, top to bottom, left to right.

    Args:
        tissue_c: (height_c, width_c).
    """
    for row in range(grid.rows):
        y = _reach(grid, row)
        if not tissue_c[y].any():
            continue
        for column in range(grid.columns):
            if tissue_c[y, _reach(grid, column)].any():
                yield row, column


def _reach(grid: TileGrid, index: int) -> slice:
    """The cells of the slide that a tile contributes to."""
    start = grid.origin_c(index) + grid.halo_c
    return slice(max(0, start), start + grid.tile_c - 2 * grid.halo_c)
