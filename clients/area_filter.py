"""Separable area averaging in global coordinates: an output pixel's value never depends on the window that it is computed in. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Taps:
    """For each output pixel the source pixels it covers and their shares.

    Attributes:
        first: the first source pixel needed.
        length: how many source pixels are needed from there.
        index: (outputs, taps) into that stretch.
        weight: (outputs, taps), float32; a row sums to 1.
    """

    first: int
    length: int
    index: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float32]


def area_taps(start: int, stop: int, scale: float, size: int) -> Taps:
    """Taps of output pixels start…stop − 1, where output i covers the source's [i·scale, (i + 1)·scale) as far as it reaches.

    Args:
        scale: source pixels per output pixel; above 1 reduces.
        size: of the source.
    """
    edges = np.arange(start, stop + 1, dtype=np.float64) * scale
    low, high = edges[:-1, None], np.minimum(edges[1:, None], size)
    base = np.minimum(np.floor(low).astype(np.int64), size - 1)
    index = base + np.arange(int(np.ceil(scale)) + 1)
    weight = np.clip(np.minimum(high, index + 1) - np.maximum(low, index), 0, None)
    weight[:, 0] += weight.sum(axis=1) == 0  # beyond the source, where a level was rounded down: its last pixel goes on
    index = np.minimum(index, size - 1)
    first = int(index.min())
    share: npt.NDArray[np.float32] = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return Taps(first, int(index.max()) + 1 - first, index - first, share)


def reduce_axis(source: npt.NDArray[np.float32], taps: Taps, axis: int) -> npt.NDArray[np.float32]:
    """Weighted sums along an axis. Tap by tap, not as a matrix product, whose order of summation would change with its size."""
    shape = [1] * source.ndim
    shape[axis] = -1
    total = np.take(source, taps.index[:, 0], axis=axis) * taps.weight[:, 0].reshape(shape)
    for tap in range(1, taps.index.shape[1]):
        total += np.take(source, taps.index[:, tap], axis=axis) * taps.weight[:, tap].reshape(shape)
    return total
