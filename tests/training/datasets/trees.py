"""Small data sets on disk, laid out as published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Indices = npt.NDArray[np.uint8]


def put_image(path: Path, width_px: int = 6, height_px: int = 4, seed: int = 0) -> Path:
    """An RGB image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def put_mask(path: Path, indices: Indices, palette: Sequence[int] | None = (0, 64, 128, 64, 128, 0, 243, 152, 0, 255, 255, 255)) -> Path:
    """A palette PNG of raw indices, or without a palette a single-channel one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices)
    if palette is not None:
        image.putpalette([*palette, *[0] * (768 - len(palette))])  # Pillow drops the bits of indices that the palette lacks
    image.save(path)
    return path


def put_pair(folder: Path, name: str, indices: Indices, palette: Sequence[int] | None = (255, 0, 0)) -> None:
    """`folder/img/name` and its mask of the same size."""
    put_image(folder / "img" / name, indices.shape[1], indices.shape[0])
    put_mask(folder / "mask" / f"{Path(name).stem}.png", indices, palette)


def blocks(*columns: int, side_px: int = 4) -> Indices:
    """A mask of vertical blocks, each a square of one index."""
    return np.repeat(np.array([columns], np.uint8), side_px, axis=1).repeat(side_px, axis=0)
