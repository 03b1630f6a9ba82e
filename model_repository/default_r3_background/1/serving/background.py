"""The task's background rule, once for training, the served python step and the slide client. numpy and scipy only, so that the server can copy this file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage


def to_gray(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Rec. 601 luma of uint8 RGB (…, 3), float32 0…255."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    gray: npt.NDArray[np.float32] = rgb.astype(np.float32) @ weights
    return gray


def background_mask(rgb: npt.NDArray[np.uint8], gray_above: int, min_size_px: int) -> npt.NDArray[np.bool_]:
    """Background pixels of one image (thesis §4.3.2 "Background Seeding").

    Gray above the threshold, then 4-connected components of fewer than `min_size_px` pixels dropped: the definition of
    `skimage.morphology.remove_small_objects(connectivity=1)`, tested against it.

    Args:
        rgb: uint8 (H, W, 3).
    """
    return keep_large(to_gray(rgb) > gray_above, min_size_px)


def keep_large(bright: npt.NDArray[np.bool_], min_size_px: int) -> npt.NDArray[np.bool_]:
    """Drop the 4-connected components of fewer than `min_size_px` pixels from a mask (H, W)."""
    if min_size_px <= 1 or not bright.any():
        return bright
    components, _ = ndimage.label(bright)  # default structure: connectivity 1
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    kept: npt.NDArray[np.bool_] = (sizes >= min_size_px)[components]
    return kept


def area_fraction(mask: npt.NDArray[np.bool_], cell_px: int) -> npt.NDArray[np.float32]:
    """Share of each `cell_px` cell that the mask covers: (H, W) → float32 (H / cell_px, W / cell_px), 0…1.

    Raises:
        ValueError: a side is no multiple of `cell_px`.
    """
    height, width = mask.shape
    if height % cell_px or width % cell_px:
        raise ValueError(f"expected sides that are multiples of {cell_px}, got {mask.shape}")
    cells = mask.reshape(height // cell_px, cell_px, width // cell_px, cell_px)
    fraction: npt.NDArray[np.float32] = cells.mean(axis=(1, 3), dtype=np.float32)
    return fraction
