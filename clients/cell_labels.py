"""Labels of quantized cells, and the background's share of a cell: what serving/ says of them, bit for bit, without the work that changes nothing."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from serving.probabilities import labels_from_levels

Number = TypeVar("Number", np.uint8, np.float32)
_CELLS_AT_A_TIME = 16_384  # their upsampled levels, a few classes of float32, stay in the processor's cache


def labels_of_cells(levels: npt.NDArray[np.uint8], cell_px: int) -> npt.NDArray[np.uint8]:
    """`labels_from_levels`: argmax of the upsampled levels (K, h, w), ties to the lowest index; uint8 (h·cell_px, w·cell_px).

    A pixel is a mean of the cells around it. Where one class leads in a cell and in all eight beside it, it leads in each of the cell's pixels: only
    the other cells are upsampled, exactly, since with a power of two as `cell_px` weights are dyadic.
    """
    if cell_px < 2 or cell_px & (cell_px - 1):
        return labels_from_levels(levels, cell_px)
    leader = _argmax(levels)
    rows, columns = np.nonzero(_is_mixed(leader))
    labels = np.repeat(np.repeat(leader, cell_px, axis=0), cell_px, axis=1)
    blocks = labels.reshape(len(leader), cell_px, -1, cell_px)
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    for first in range(0, len(rows), _CELLS_AT_A_TIME):
        some = slice(first, first + _CELLS_AT_A_TIME)
        pixels = _middle_pixels(around[:, rows[some], columns[some]].astype(np.float32), cell_px)
        blocks[rows[some], :, columns[some], :] = _argmax(pixels)
    return labels


def covered_share(mask: npt.NDArray[np.bool_], cell_px: int) -> npt.NDArray[np.float32]:
    """`area_fraction`: share of each cell that the mask covers, float32 (h, w), 0…1. Sides are multiples of `cell_px`, at most 255."""
    height, width = mask.shape
    by_row = mask.view(np.uint8).reshape(height // cell_px, cell_px, width).sum(axis=1, dtype=np.uint8)
    counts = by_row.reshape(len(by_row), width // cell_px, cell_px).sum(axis=2, dtype=np.uint16)
    share: npt.NDArray[np.float32] = counts.astype(np.float32) / np.float32(cell_px * cell_px)
    return share


def _is_mixed(leader: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether a cell and the eight around it (fewer at the edge) are not all the same: one of the three rows is mixed, or the middle column."""
    across, down = leader[:, 1:] != leader[:, :-1], leader[1:] != leader[:-1]
    by_row = np.zeros(leader.shape, dtype=np.bool_)  # a cell and those beside it
    by_row[:, 1:] |= across
    by_row[:, :-1] |= across
    by_column = np.zeros(leader.shape, dtype=np.bool_)  # a cell and those above and below it
    by_column[1:] |= down
    by_column[:-1] |= down
    mixed = by_row | by_column
    mixed[1:] |= by_row[:-1]
    mixed[:-1] |= by_row[1:]
    return mixed


def _middle_pixels(around: npt.NDArray[np.float32], cell_px: int) -> npt.NDArray[np.float32]:
    """Cells with their neighbors, (K, n, 3, 3) → the pixels of the one in the middle, (K, n, cell_px, cell_px)."""
    position = (np.arange(cell_px, dtype=np.float32) + np.float32(0.5)) / np.float32(cell_px) + np.float32(0.5)
    lower = np.floor(position).astype(np.int64)
    weight = position - lower.astype(np.float32)
    across = around[..., lower] * (1 - weight) + around[..., lower + 1] * weight
    down = weight[:, None]
    pixels: npt.NDArray[np.float32] = across[:, :, lower] * (1 - down) + across[:, :, lower + 1] * down
    return pixels


def _argmax(values: npt.NDArray[Number]) -> npt.NDArray[np.uint8]:
    """Index of the greatest along the first axis, the lowest of equals; `np.argmax` does it many times slower."""
    greatest = values[0].copy()
    index = np.zeros(values.shape[1:], dtype=np.uint8)
    for candidate in range(1, len(values)):
        np.putmask(index, values[candidate] > greatest, np.uint8(candidate))
        np.maximum(greatest, values[candidate], out=greatest)
    return index
