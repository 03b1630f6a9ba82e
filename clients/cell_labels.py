"""Labels of quantized cells, and the background's share of a cell: what serving/ says of them, bit for bit, without the work that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.probabilities import labels_from_levels

_CELLS_AT_A_TIME = 4_096  # their upsampled levels stay in the processor's cache


def labels_of_cells(levels: npt.NDArray[np.uint8], cell_px: int) -> npt.NDArray[np.uint8]:
    """`labels_from_levels`: argmax of the upsampled levels (K, h, w), ties to the lowest index; uint8 (h·cell_px, w·cell_px).

    A pixel is a mean of the cells around it. Where one class leads in a cell and in all eight beside it, it leads in each of the cell's pixels: only
    the other cells are upsampled, exactly, since with a power of two as `cell_px` weights are dyadic.
    """
    if cell_px < 2 or cell_px & (cell_px - 1):
        return labels_from_levels(levels, cell_px)
    leader = _argmax(levels)
    rows, columns = np.nonzero(_is_mixed(leader))
    labels = np.repeat(np.repeat(leader, cell_px, axis=1), cell_px, axis=0)
    blocks = labels.reshape(len(leader), cell_px, -1, cell_px)
    padded = np.pad(levels, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for first in range(0, len(rows), _CELLS_AT_A_TIME):
        y, x = rows[first : first + _CELLS_AT_A_TIME], columns[first : first + _CELLS_AT_A_TIME]
        around = [[padded[:, y + down, x + right] for right in range(3)] for down in range(3)]
        blocks[y, :, x, :] = np.moveaxis(_argmax(_middle_pixels(around, cell_px)), -1, 0)
    return labels


def covered_share(mask: npt.NDArray[np.bool_], cell_px: int) -> npt.NDArray[np.float32]:
    """`area_fraction`: share of each cell that the mask covers, float32 (h, w), 0…1. Sides are multiples of `cell_px`, at most 255."""
    height, width = mask.shape
    rows = mask.view(np.uint8).reshape(height // cell_px, cell_px, width)
    by_row = rows[:, 0].copy()
    for row in range(1, cell_px):  # sums over a short axis take numpy five times as long
        by_row += rows[:, row]
    counts = by_row[:, ::cell_px].astype(np.uint16)
    for column in range(1, cell_px):
        counts += by_row[:, column::cell_px]
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


def _middle_pixels(around: Sequence[Sequence[npt.NDArray[np.uint8]]], cell_px: int) -> npt.NDArray[Any]:
    """Levels of cells and of the eight around each, 3 × 3 of (K, n) → its pixels times (2·cell_px)², whole: (K, cell_px, cell_px, n)."""
    whole = np.uint16 if cell_px <= 8 else np.uint32
    positions = np.arange(cell_px) * 2 + 1 + cell_px  # of pixel centers, from the first cell's, in parts of a cell
    first, parts = np.divmod(positions, 2 * cell_px)
    across = [
        [row[left] * whole(2 * cell_px - part) + row[left + 1] * whole(part) for left, part in zip(first, parts, strict=True)]
        for row in around
    ]
    classes, cells = around[0][0].shape
    pixels = np.empty((classes, cell_px, cell_px, cells), dtype=whole)
    for y, (above, part) in enumerate(zip(first, parts, strict=True)):
        for x in range(cell_px):
            np.multiply(across[above][x], whole(2 * cell_px - part), out=pixels[:, y, x])
            pixels[:, y, x] += across[above + 1][x] * whole(part)
    return pixels


def _argmax(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Index of the greatest along the first axis, the lowest of equals; `np.argmax` does it many times slower."""
    greatest = values[0].copy()
    index = np.zeros(values.shape[1:], dtype=np.uint8)
    for candidate in range(1, len(values)):
        np.putmask(index, values[candidate] > greatest, np.uint8(candidate))
        np.maximum(greatest, values[candidate], out=greatest)
    return index
