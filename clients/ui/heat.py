"""Class activation maps over an image of any size, from those of its tiles. Knows no HTTP."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..blend import Blender
from ..mirror import read_mirrored
from ..picture import OVERLAP
from ..tile_client import TileClient
from ..tiling import TileGrid, make_grid

Rgb = npt.NDArray[np.uint8]
_TILES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Heat:
    """What the network saw, per class.

    Attributes:
        maps: float32 (C, ceil(H / cell_px), ceil(W / cell_px)), 0…1: CAM × SCORE, the mean of overlapping tiles.
        scores: float32 (C,), 0…1: the highest of any tile.
        cell_px: pixels of the image per cell.
    """

    maps: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    cell_px: int


def heat_of(rgb: Rgb, client: TileClient) -> Heat:
    """CAM × SCORE as for slides, since maps normalized per tile cannot be compared; no class is left out by its score.

    Args:
        rgb: uint8 (H, W, 3), at the model's scale.

    Raises:
        CallError: the model fails, or has no entry for CAMs.
    """
    contract = client.contract("cam")
    height, width = rgb.shape[:2]
    grid = _grid(width, height, contract.task.tile_px, contract.cell_px)
    blender = Blender(grid, len(contract.task.classes))
    no_glass = np.zeros((contract.task.tile_px, contract.task.tile_px), dtype=np.bool_)
    scores = np.zeros(len(contract.task.classes), dtype=np.float32)
    rows = []
    step = max(1, _TILES_AT_ONCE // grid.columns)
    for first in range(0, grid.rows, step):
        last = min(first + step, grid.rows)
        result = client.cam(_tiles(rgb, grid, range(first, last)))
        scores = np.maximum(scores, result.scores.max(axis=0))
        evidence = (result.cam * result.scores[:, :, None, None]).reshape(last - first, grid.columns, *result.cam.shape[1:])
        for tiles in evidence:
            for column, tile in enumerate(tiles):
                blender.add(column, tile, no_glass)
            rows.append(blender.finish_row().evidence)
    return Heat(np.concatenate(rows, axis=1), scores, contract.cell_px)


def _grid(width: int, height: int, tile_px: int, cell_px: int) -> TileGrid:
    """A tile alone is not cut, as `segment_image` does not cut it."""
    return make_grid(width, height, tile_px, cell_px, 0.0 if (width, height) == (tile_px, tile_px) else OVERLAP)


def _tiles(rgb: Rgb, grid: TileGrid, rows: range) -> Rgb:
    height, width = rgb.shape[:2]
    tile_px = grid.tile_c * grid.cell_px

    def read(x0: int, y0: int, x1: int, y1: int) -> Rgb:
        return rgb[y0:y1, x0:x1]

    corners = [(grid.origin_c(row) * grid.cell_px, grid.origin_c(column) * grid.cell_px) for row in rows for column in range(grid.columns)]
    return np.stack([read_mirrored(read, (width, height), x, y, tile_px, tile_px) for y, x in corners])
