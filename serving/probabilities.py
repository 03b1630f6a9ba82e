"""Quantized probabilities on the cell grid, and the labels they mean: one rule for the exported graph, the server and the slide client. numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_FINE = 1024  # parts of a level that are kept of a mean over tiles


def quantize(probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """0…1 → uint8 0…255, rounded half to even (ONNX `Round`)."""
    levels: npt.NDArray[np.uint8] = np.rint(np.clip(probabilities, 0, 1) * np.float32(255)).astype(np.uint8)
    return levels


def dequantize(levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 0…255 → float32 0…1."""
    probabilities: npt.NDArray[np.float32] = levels.astype(np.float32) / np.float32(255)
    return probabilities


def add_background(probabilities: npt.NDArray[np.float32], background: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Combine the network's distribution with the background rule (thesis eq. 4.9 on the cell grid), quantized.

    Channel 0 becomes b + (1 − b)·p0 and every other channel × (1 − b), so that a distribution stays one, and a network
    without a background class (p0 = 0) gets the rule's area fraction itself.

    Computed on levels: those that were quantized come back whole, a share of a cell is a sum of halves, and so every product is exact and
    every engine rounds the same way.

    Args:
        probabilities: (K, h, w), 0…1, channel 0 = the network's own background.
        background: (h, w), area fraction 0…1.

    Returns:
        Levels, uint8 (K, h, w).
    """
    levels = np.rint(probabilities * np.float32(255 * _FINE)) / np.float32(_FINE)
    combined = levels * (1 - background)
    combined[0] += 255 * background
    np.minimum(np.maximum(combined, 0, out=combined), 255, out=combined)
    whole: npt.NDArray[np.uint8] = np.rint(combined, out=combined).astype(np.uint8)
    return whole


def upsample(cells: npt.NDArray[np.float32], cell_px: int) -> npt.NDArray[np.float32]:
    """Bilinear upsampling with half-pixel centers and clamped edges: (…, h, w) → (…, h·cell_px, w·cell_px).

    For a power-of-two `cell_px` the weights are dyadic: on integers below 2**16 float32 is exact, so that torch, ONNX
    Runtime and this function agree bit for bit.
    """
    return _upsample_last(_upsample_last(cells, cell_px).swapaxes(-1, -2), cell_px).swapaxes(-1, -2)


def labels_from_levels(levels: npt.NDArray[np.uint8], cell_px: int) -> npt.NDArray[np.uint8]:
    """LABELS of PROBABILITIES: argmax of the upsampled levels, ties to the lowest index. (K, h, w) → uint8 (H, W)."""
    labels: npt.NDArray[np.uint8] = upsample(levels.astype(np.float32), cell_px).argmax(axis=0).astype(np.uint8)
    return labels


def _upsample_last(cells: npt.NDArray[np.float32], cell_px: int) -> npt.NDArray[np.float32]:
    length = cells.shape[-1]
    position = (np.arange(length * cell_px, dtype=np.float32) + np.float32(0.5)) / np.float32(cell_px) - np.float32(0.5)
    lower = np.floor(position).astype(np.int64)
    weight = (position - lower).astype(np.float32)
    left = cells[..., np.clip(lower, 0, length - 1)]
    right = cells[..., np.clip(lower + 1, 0, length - 1)]
    blended: npt.NDArray[np.float32] = left * (1 - weight) + right * weight
    return blended
