"""Generated whole slides with known truth: two islands of tissue on glass, as a pyramidal tiled JPEG TIFF that OpenSlide opens. No torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

from serving.tasks import get_task

from .errors import DataError
from .patches import save_mask
from .tissue.noise import Field, Mask, smooth_noise
from .tissue.render import GLASS, TEXTURES, render

TILE_PX = 256  # of the file
_JPEG_QUALITY = 90
_MIN_SIDE_PX = 512
_REGION_PX = 150.0
_UM_PER_CM = 10_000


def truth_path(slide: Path) -> Path:
    """Where the truth of a generated slide lies: labels 0…4 at level 0, a palette PNG."""
    return slide.with_name(f"{slide.stem}.truth.png")


def write_slide(path: Path, seed: int, width_px: int = 4096, height_px: int = 3072, mpp: float = 0.5) -> None:
    """Generate a slide and its truth (`truth_path`); the slide appears last, whole.

    Raises:
        DataError: a side is too small to hold two islands.
    """
    if min(width_px, height_px) < _MIN_SIDE_PX:
        raise DataError(f"{path}: expected sides of at least {_MIN_SIDE_PX} px, got {width_px}×{height_px}")
    labels = draw_slide_labels(np.random.default_rng([seed, 11]), (height_px, width_px))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_mask(truth_path(path), labels, [tissue.color for tissue in get_task("demo").classes])
    partial = path.with_name(path.name + ".partial")
    write_pyramid(partial, render(labels, seed), mpp)
    os.replace(partial, path)


def draw_slide_labels(random: np.random.Generator, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Labels 0…4, uint8 of `shape`: organic regions of the four tissues inside two islands."""
    fields = np.stack([smooth_noise(random, shape, _REGION_PX) for _ in TEXTURES])
    labels: npt.NDArray[np.uint8] = (fields.argmax(axis=0) + 1).astype(np.uint8)
    labels[~_islands(random, shape)] = GLASS
    return labels


def write_pyramid(path: Path, rgb: npt.NDArray[np.uint8], mpp: float) -> None:
    """A tiled JPEG TIFF whose levels halve until one fits into a tile or two; the resolution tags give `mpp`."""
    resolution = (_UM_PER_CM / mpp, _UM_PER_CM / mpp)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level in range(16):
            writer.write(
                rgb,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": _JPEG_QUALITY},
                subfiletype=1 if level else 0,
                resolution=tuple(value / 2**level for value in resolution),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            if max(rgb.shape[:2]) <= 2 * TILE_PX:
                return
            rgb = _halve(rgb)


def _islands(random: np.random.Generator, shape: tuple[int, int]) -> Mask:
    """Two ragged ellipses side by side, with a few holes."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    reach = np.full(shape, -np.inf, dtype=np.float32)
    for center_x in (0.27, 0.74):
        radius_x, radius_y = width * random.uniform(0.17, 0.20), height * random.uniform(0.34, 0.40)
        down, right = y - height * random.uniform(0.46, 0.54), x - width * center_x
        reach = np.maximum(reach, 1 - np.hypot(right / radius_x, down / radius_y))
    scale_px = min(shape) / 12
    edge: Field = reach + 0.10 * smooth_noise(random, shape, scale_px) + 0.03 * smooth_noise(random, shape, scale_px / 6)
    holes = smooth_noise(random, shape, scale_px / 3) > 2.2
    islands: Mask = (edge > 0) & ~holes
    return islands


def _halve(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Mean of 2×2 pixels; an odd last row or column is dropped."""
    height, width = (side // 2 for side in rgb.shape[:2])
    blocks = rgb[: 2 * height, : 2 * width].reshape(height, 2, width, 2, 3)
    halved: npt.NDArray[np.uint8] = ((blocks.sum(axis=(1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)
    return halved
