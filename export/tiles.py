"""The tiles that parity and the canary are measured on: a folder of images, or generated tissue for the demo task. Knows no network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from serving.contract import TissueTask
from training.tissue.patch import draw_patch

from .errors import TilesError
from .parity import MIN_TILES

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
_MAX_TILES = 16  # more say little and cost a minute on two cores
_FIRST_SEED = 900_000_000  # far from every seed of a generated data set


def parity_tiles(task: TissueTask, folder: Path | None) -> npt.NDArray[np.uint8]:
    """Tiles of the task, uint8 (n, tile_px, tile_px, 3), n ≥ `MIN_TILES`.

    Raises:
        TilesError: no folder given for a task that cannot be generated, or too few usable images in it.
    """
    if folder is not None:
        return read_tiles(folder, task.tile_px)
    if task.name == "demo":
        return np.stack([draw_patch(_FIRST_SEED + index, task.tile_px)[0] for index in range(MIN_TILES)])
    raise TilesError(f"task {task.name!r}: expected real tiles to check the export with, got none: give a folder of images with --tiles")


def read_tiles(folder: Path, tile_px: int) -> npt.NDArray[np.uint8]:
    """The centers of a folder's images, spread evenly over their names.

    Raises:
        TilesError: no such folder, too few images, or one that is too small or unreadable.
    """
    if not folder.is_dir():
        raise TilesError(f"{folder}: expected a folder of tile images, found none")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if len(paths) < MIN_TILES:
        raise TilesError(f"{folder}: expected at least {MIN_TILES} images ({', '.join(sorted(_SUFFIXES))}), found {len(paths)}")
    chosen = np.linspace(0, len(paths) - 1, min(len(paths), _MAX_TILES)).round().astype(int)
    return np.stack([_read_center(paths[index], tile_px) for index in chosen])


def _read_center(path: Path, tile_px: int) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            rgb = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise TilesError(f"{path}: expected an image, cannot read it: {error}") from error
    top, left = (rgb.shape[0] - tile_px) // 2, (rgb.shape[1] - tile_px) // 2
    if top < 0 or left < 0:
        raise TilesError(f"{path}: expected at least {tile_px}×{tile_px} px, got {rgb.shape[1]}×{rgb.shape[0]}")
    return rgb[top : top + tile_px, left : left + tile_px]
