"""Two tiles and what a frozen ensemble must answer to them, computed without Triton. The server compares values with it, not only status."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.background import background_mask
from serving.canary import TOLERANCE
from serving.contract import BACKGROUND, TILE, BackgroundRule
from training.tissue.patch import draw_patch

from .graphs import KindGraphs
from .parity import LIMITS, Precision
from .runtime import Graph
from .signature import NET_PREFIX, is_combined

CANARY_TILES = 2
_TOLERANCE = ("canary_agreement", "canary_max_levels", "canary_max_abs")  # in the order of `serving.canary.Tolerance`
_FIRST_SEED = 910_000_000  # far from every seed of a generated data set


def canary_tiles(tile_px: int) -> npt.NDArray[np.uint8]:
    """Two different tiles of generated tissue, uint8 (2, tile_px, tile_px, 3), whatever the task: a release travels, and nobody's slides with it.

    A quarter of the second is glass, so that the background step has something to find.
    """
    tiles = np.stack([draw_patch(_FIRST_SEED + index, tile_px)[0] for index in range(CANARY_TILES)])
    tiles[-1, : tile_px // 2, : tile_px // 2] = 255
    return tiles


def canary_arrays(graphs: KindGraphs, rule: BackgroundRule | None, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """TILE, every output of the frozen ensemble (ONNX Runtime and the numpy rule, chained by hand) and how far a server may be away from them."""
    tolerance = np.array([_bound(name, graphs.precision) for name in _TOLERANCE])
    return {TOLERANCE: tolerance, TILE: tiles, **_answer(graphs, rule, tiles)}


def _bound(figure: str, precision: Precision) -> float:
    """Of the gate's table; what is not judged there is not judged by the server."""
    bound = LIMITS[figure].bound(precision)
    return np.inf if bound is None else bound


def _answer(graphs: KindGraphs, rule: BackgroundRule | None, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    answer = Graph(graphs.net).run({TILE: tiles})
    if graphs.labels is None or rule is None:
        return answer
    background = np.stack([background_mask(tile, rule.gray_above, rule.min_size_px) for tile in tiles]).astype(np.uint8)
    read = {NET_PREFIX + name: array for name, array in answer.items() if is_combined(graphs.kind, name)}
    return Graph(graphs.labels).run({**read, BACKGROUND: background})
