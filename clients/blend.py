"""Overlapping tiles into rows of cells, one row of tiles at a time: memory of a tile's height, never of a slide's. Knows no labels and no server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .tiling import TileGrid, taper_window


@dataclass(frozen=True)
class CellRows:
    """Finished rows of the whole slide's width.

    Attributes:
        evidence: float32 (K, n, width_c), weighted mean of the tiles; 0 where no tile was.
        covered: bool (n, width_c), whether any tile was.
        bright: bool (n·cell_px, width_c·cell_px), pixels above the background rule's gray; True where no tile was.
    """

    evidence: npt.NDArray[np.float32]
    covered: npt.NDArray[np.bool_]
    bright: npt.NDArray[np.bool_]


class Blender:
    """Accumulates one row of tiles; `finish_row` gives the cells that no later tile reaches and moves on by a stride.

    Args:
        channels: K of the evidence.
    """

    def __init__(self, grid: TileGrid, channels: int) -> None:
        self.grid = grid
        self.row = 0
        self._window = taper_window(grid)
        width_c = grid.origin_c(grid.columns - 1) - grid.origin_c(0) + grid.tile_c
        self._sum = np.zeros((channels, grid.tile_c, width_c), dtype=np.float32)
        self._weight = np.zeros((grid.tile_c, width_c), dtype=np.float32)
        self._bright = np.ones((grid.tile_c * grid.cell_px, width_c * grid.cell_px), dtype=np.bool_)

    def add(self, column: int, evidence: npt.NDArray[np.float32], bright: npt.NDArray[np.bool_]) -> None:
        """Add the tile of the current row in that column.

        Args:
            evidence: (K, tile_c, tile_c).
            bright: (tile_px, tile_px).
        """
        grid = self.grid
        left_c = column * grid.stride_c
        cells = slice(left_c, left_c + grid.tile_c)
        self._sum[:, :, cells] += evidence * self._window
        self._weight[:, cells] += self._window
        # Only where the tile counts: what other pixels look like must not depend on whether a neighbor was sent.
        halo_px, reach_px = grid.halo_c * grid.cell_px, (grid.tile_c - grid.halo_c) * grid.cell_px
        left_px = left_c * grid.cell_px
        self._bright[halo_px:reach_px, left_px + halo_px : left_px + reach_px] = bright[halo_px:reach_px, halo_px:reach_px]

    def finish_row(self) -> CellRows:
        """The next `stride_c` rows of cells (in the last row of tiles all that are left), cropped to the slide."""
        grid = self.grid
        start_c = self.row * grid.stride_c
        is_last = self.row == grid.rows - 1
        count = grid.height_c - start_c if is_last else grid.stride_c
        rows, columns = slice(grid.halo_c, grid.halo_c + count), slice(grid.halo_c, grid.halo_c + grid.width_c)
        weight = self._weight[rows, columns]
        covered = weight > 0
        evidence = np.divide(self._sum[:, rows, columns], weight, out=np.zeros((len(self._sum), *weight.shape), np.float32), where=covered)
        bright = self._bright[_pixels(rows, grid.cell_px), _pixels(columns, grid.cell_px)].copy()
        self._advance()
        return CellRows(evidence, covered, bright)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a later run needs to go on with this row of tiles; views of memory that the next tile changes. Wanted before a row's first tile."""
        return {"row": np.array(self.row), "sum": self._sum, "weight": self._weight, "row_bright": np.packbits(self._bright)}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on where the blender of `state` was.

        Raises:
            ValueError: it was another grid's.
        """
        self.row = int(state["row"])
        self._sum[...] = state["sum"]
        self._weight[...] = state["weight"]
        self._bright[...] = unpack(state["row_bright"], self._bright.shape)

    def _advance(self) -> None:
        stride_c = self.grid.stride_c
        _scroll(self._sum, stride_c, axis=1, fill=0)
        _scroll(self._weight, stride_c, axis=0, fill=0)
        _scroll(self._bright, stride_c * self.grid.cell_px, axis=0, fill=1)
        self.row += 1


def unpack(bits: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The inverse of `np.packbits` of a whole array."""
    return np.unpackbits(bits, count=int(np.prod(shape))).view(np.bool_).reshape(shape)


def _scroll(rows: npt.NDArray[np.generic], count: int, axis: int, fill: int) -> None:
    """Move the rows up by `count`, in place."""
    moving = np.moveaxis(rows, axis, 0)
    moving[:-count] = moving[count:].copy()
    moving[-count:] = fill


def _pixels(cells: slice, cell_px: int) -> slice:
    return slice(cells.start * cell_px, cells.stop * cell_px)
