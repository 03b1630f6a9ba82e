"""Two tiles and what a frozen ensemble must answer to them, computed without Triton. The server compares values with it, not only status."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.background import background_mask
from serving.contract import BACKGROUND, TILE, BackgroundRule
from training.tissue.patch import draw_patch

from .graphs import KindGraphs
from .runtime import Graph
from .signature import NET_PREFIX, is_combined

CANARY_TILES = 2
_FIRST_SEED = 910_000_000  # far from every seed of a generated data set


def canary_tiles(tile_px: int) -> npt.NDArray[np.uint8]:
    """Two different tiles of generated tissue, uint8 (2, tile_px, tile_px, 3), whatever the task: a release travels, and nobody's slides with it.

    A quarter of the second is glass, so that the background step has something to find.
    """
    tiles = np.stack([draw_patch(_FIRST_SEED + index, tile_px)[0] for index in range(CANARY_TILES)])
    tiles[-1, : tile_px // 2, : tile_px // 2] = 255
    return tiles


def canary_arrays(graphs: KindGraphs, rule: BackgroundRule | None, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """TILE and every output of the frozen ensemble: ONNX Runtime and the numpy rule, chained by hand."""
    answer = Graph(graphs.net).run({TILE: tiles})
    if graphs.labels is None or rule is None:
        return {TILE: tiles, **answer}
    background = np.stack([background_mask(tile, rule.gray_above, rule.min_size_px) for tile in tiles]).astype(np.uint8)
    read = {NET_PREFIX + name: array for name, array in answer.items() if is_combined(graphs.kind, name)}
    return {TILE: tiles, **Graph(graphs.labels).run({**read, BACKGROUND: background})}
