"""Two tiles and what a frozen ensemble must answer to them, computed without Triton. The server compares values with it, not only status."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.background import background_mask
from serving.contract import BACKGROUND, TILE, BackgroundRule

from .graphs import KindGraphs
from .runtime import Graph
from .signature import NET_PREFIX, is_combined

CANARY_TILES = 2


def canary_tiles(tiles: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Two different tiles; a quarter of the second is made glass, so that the background step has something to find."""
    chosen = tiles[:CANARY_TILES].copy()
    half_px = chosen.shape[1] // 2
    chosen[-1, :half_px, :half_px] = 255
    return chosen


def canary_arrays(graphs: KindGraphs, rule: BackgroundRule | None, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """TILE and every output of the frozen ensemble: ONNX Runtime and the numpy rule, chained by hand."""
    answer = Graph(graphs.net).run({TILE: tiles})
    if graphs.labels is None or rule is None:
        return {TILE: tiles, **answer}
    background = np.stack([background_mask(tile, rule.gray_above, rule.min_size_px) for tile in tiles]).astype(np.uint8)
    read = {NET_PREFIX + name: array for name, array in answer.items() if is_combined(graphs.kind, name)}
    return {TILE: tiles, **Graph(graphs.labels).run({**read, BACKGROUND: background})}
