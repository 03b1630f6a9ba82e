"""The large components of a mask, found by the runs of its rows: `keep_large` of serving/background.py, faster where runs are long."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from serving.background import keep_large

_PIXELS_PER_RUN = 16  # below that a run costs more than its pixels do

_CACHED_ROWS = 64  # at a time: they stay in the processor's cache


def keep_large_components(bright: npt.NDArray[np.bool_], min_size_px: int) -> npt.NDArray[np.bool_]:
    """Drop the 4-connected components of fewer than `min_size_px` pixels from a mask (H, W); the argument is not changed."""
    if min_size_px <= 1:
        return bright
    starts, ends = _runs(bright)
    if len(starts) * _PIXELS_PER_RUN > bright.size:
        return keep_large(bright, min_size_px)
    if not len(starts):
        return bright
    lengths = ends - starts
    upper, lower = _touching(starts, ends, bright.shape[1] + 1)
    graph = coo_array((np.ones(len(upper), dtype=np.bool_), (upper, lower)), shape=(len(starts), len(starts)))
    _, component = connected_components(graph, directed=False)
    is_small = np.bincount(component, weights=lengths)[component] < min_size_px
    kept = bright.copy()
    _clear(kept, starts[is_small], lengths[is_small])
    return kept


def _runs(bright: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First pixel and the one after the last of every run of a row, in a flat mask whose rows end in one dark pixel more."""
    height, width = bright.shape
    row = width + 1
    padded = np.zeros(_CACHED_ROWS * row + 1, dtype=np.bool_)  # one before the first
    edges = [np.empty(0, dtype=np.int64)]
    for top in range(0, height, _CACHED_ROWS):
        part = bright[top : top + _CACHED_ROWS]
        flat = padded[: len(part) * row + 1]
        flat[1:].reshape(len(part), row)[:, :-1] = part
        edges.append(np.flatnonzero(flat[1:] != flat[:-1]) + top * row)
    joined = np.concatenate(edges)  # a row's last run ends within the row: each part has as many ends as starts
    return joined[0::2], joined[1::2]


def _touching(starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], row: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of runs, one below the other, that share a column."""
    first = np.searchsorted(ends, starts + row, side="right")
    counts = np.searchsorted(starts, ends + row, side="left") - first
    upper = np.repeat(np.arange(len(starts)), counts)
    return upper, np.arange(len(upper)) - np.repeat(np.cumsum(counts) - counts - first, counts)


def _clear(mask: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
    """Darken runs."""
    flat = np.arange(lengths.sum()) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    rows, columns = np.divmod(flat, mask.shape[1] + 1)
    mask[rows, columns] = False
