"""What color alone reaches: a lookup from RGB to class, learned from pixel truth. The yardstick that shows a figure needs structure. numpy and scipy only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_BITS = 5  # 32 levels a channel


@dataclass(frozen=True)
class ColorLookup:
    """The most frequent class of each of 32³ colors.

    Attributes:
        table: uint8 (32768,), labels 0…C.
        window_px: side of the square over which color is averaged first; 1 = the pixel itself.
    """

    table: npt.NDArray[np.uint8]
    window_px: int

    def predict(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 RGB (H, W, 3) → labels uint8 (H, W)."""
        return self.table[_bins(rgb, self.window_px)]


def learn_colors(pairs: Iterable[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]], num_classes: int, window_px: int) -> ColorLookup:
    """Learn the lookup from images and their *pixel* truth: more than the weakly supervised model ever sees.

    Colors that never occurred get the class that is most frequent overall.
    """
    counts = np.zeros((num_classes + 1, 1 << (3 * _BITS)), dtype=np.int64)
    for rgb, labels in pairs:
        flat = labels.astype(np.int64).ravel() * counts.shape[1] + _bins(rgb, window_px).ravel()
        counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
    table = counts.argmax(axis=0).astype(np.uint8)
    table[counts.sum(axis=0) == 0] = counts.sum(axis=1).argmax()
    return ColorLookup(table, window_px)


def _bins(rgb: npt.NDArray[np.uint8], window_px: int) -> npt.NDArray[np.int64]:
    if window_px > 1:
        rgb = np.stack([ndimage.uniform_filter(rgb[..., channel], window_px) for channel in range(3)], axis=-1)
    red, green, blue = np.moveaxis(rgb.astype(np.int64) >> (8 - _BITS), -1, 0)
    bins: npt.NDArray[np.int64] = (red << (2 * _BITS)) | (green << _BITS) | blue
    return bins
