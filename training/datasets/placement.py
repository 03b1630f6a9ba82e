"""An image brought to the tile that the network sees: scaled, cut or reflect-padded. Arrays alone; reads no file. No torch.

Frames: `i` = the image as it is on disk, `s` = the image at the tile's scale, `t` = the tile. An image that is shorter than the tile lies at
the tile's origin; the rest of the tile is its reflection, which no target and no metric counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

IGNORE_LABEL = 255  # in targets and masks: pixels that no loss and no metric counts; above every class (the contract allows 254)

Shape = tuple[int, int]  # (height, width)


@dataclass(frozen=True)
class Placement:
    """The part of the scaled image that is on the tile: `[y_s : y_s + height, x_s : x_s + width]`, put at the tile's origin."""

    y_s: int
    x_s: int
    height: int
    width: int
    tile_px: int


def scaled_shape(shape: Shape, patch_px: int, tile_px: int) -> Shape:
    """(height, width) of an image at the scale that makes `patch_px` pixels a tile."""
    return max(1, round(shape[0] * tile_px / patch_px)), max(1, round(shape[1] * tile_px / patch_px))


def scale_rgb(rgb: npt.NDArray[np.uint8], shape: Shape) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, 3) to another (height, width), bilinear; pixel centers at half a pixel, smoothed where it shrinks."""
    if rgb.shape[:2] == shape:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((shape[1], shape[0]), Image.Resampling.BILINEAR), dtype=np.uint8)


def scale_labels(labels: npt.NDArray[np.uint8], shape: Shape) -> npt.NDArray[np.uint8]:
    """uint8 (H, W) to another (height, width), nearest neighbor: no label is invented."""
    if labels.shape == shape:
        return labels
    return np.asarray(Image.fromarray(labels).resize((shape[1], shape[0]), Image.Resampling.NEAREST), dtype=np.uint8)


def place(shape: Shape, tile_px: int, random: np.random.Generator | None) -> Placement:
    """Where an image of `shape` (frame `s`) goes: whole where it fits, else a random cut, or the middle without `random`."""
    y_s, x_s = (_start(side_px - tile_px, random) for side_px in shape)
    return Placement(y_s, x_s, min(shape[0], tile_px), min(shape[1], tile_px), tile_px)


def tile_rgb(rgb: npt.NDArray[np.uint8], placement: Placement) -> npt.NDArray[np.uint8]:
    """The tile, uint8 (tile_px, tile_px, 3), of a scaled image (H, W, 3)."""
    below, right = placement.tile_px - placement.height, placement.tile_px - placement.width
    return np.pad(_cut(rgb, placement), ((0, below), (0, right), (0, 0)), mode="reflect")


def tile_labels(labels: npt.NDArray[np.uint8], placement: Placement) -> npt.NDArray[np.uint8]:
    """The tile, uint8 (tile_px, tile_px), of a scaled label image (H, W): padding is `IGNORE_LABEL`."""
    below, right = placement.tile_px - placement.height, placement.tile_px - placement.width
    return np.pad(_cut(labels, placement), ((0, below), (0, right)), constant_values=IGNORE_LABEL)


def inside(placement: Placement) -> npt.NDArray[np.bool_]:
    """bool (tile_px, tile_px): False on padding."""
    valid = np.zeros((placement.tile_px, placement.tile_px), dtype=np.bool_)
    valid[: placement.height, : placement.width] = True
    return valid


def _start(excess_px: int, random: np.random.Generator | None) -> int:
    if excess_px <= 0:
        return 0
    return excess_px // 2 if random is None else int(random.integers(excess_px + 1))


def _cut(array: npt.NDArray[np.uint8], placement: Placement) -> npt.NDArray[np.uint8]:
    return array[placement.y_s : placement.y_s + placement.height, placement.x_s : placement.x_s + placement.width]
