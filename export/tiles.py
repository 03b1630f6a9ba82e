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
_MAX_SCORED = 64  # a mean IoU of fewer is noise
_NOT_SCORED = (0, 255)  # of a mask: background, and what is not annotated
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
    return np.stack([_read_center(path, tile_px, "RGB") for path in _choose(folder, _MAX_TILES)])


def read_scored_tiles(folder: Path, masks: Path, task: TissueTask) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Centers of images and of their masks: uint8 (n, tile_px, tile_px, 3), and labels uint8 (n, tile_px, tile_px), 0 where nothing is to be scored.

    Args:
        masks: PNGs of the images' names with the task's labels (0, 1…C, 255 = not annotated), as `histoserve patches` writes them.

    Raises:
        TilesError: as of `read_tiles`; or a mask is missing, of another size than its image, or holds a label that the task does not have.
    """
    paths = _choose(folder, _MAX_SCORED)
    return np.stack([_read_center(path, task.tile_px, "RGB") for path in paths]), np.stack(
        [_read_truth(path, masks, task) for path in paths]
    )


def _choose(folder: Path, most: int) -> list[Path]:
    if not folder.is_dir():
        raise TilesError(f"{folder}: expected a folder of tile images, found none")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if len(paths) < MIN_TILES:
        raise TilesError(f"{folder}: expected at least {MIN_TILES} images ({', '.join(sorted(_SUFFIXES))}), found {len(paths)}")
    return [paths[index] for index in np.linspace(0, len(paths) - 1, min(len(paths), most)).round().astype(int)]


def _read_truth(image: Path, masks: Path, task: TissueTask) -> npt.NDArray[np.uint8]:
    path = masks / f"{image.stem}.png"
    labels = _read_center(path, task.tile_px, None)
    with Image.open(image) as opened, Image.open(path) as mask:
        if opened.size != mask.size:
            raise TilesError(f"{path}: expected a mask of its image's size {opened.size}, got {mask.size}")
    unknown = sorted(set(np.unique(labels).tolist()) - {*range(len(task.classes) + 1), *_NOT_SCORED})
    if labels.ndim != 2 or unknown:
        raise TilesError(f"{path}: expected one channel with labels 0…{len(task.classes)} or 255, got {labels.ndim - 1} and {unknown}")
    return np.where(np.isin(labels, _NOT_SCORED), np.uint8(0), labels).astype(np.uint8)


def _read_center(path: Path, tile_px: int, mode: str | None) -> npt.NDArray[np.uint8]:
    """The middle of an image; without a mode its own values, palette indices as they are."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image if mode is None else image.convert(mode))
    except (UnidentifiedImageError, OSError) as error:
        raise TilesError(f"{path}: expected an image, cannot read it: {error}") from error
    top, left = (pixels.shape[0] - tile_px) // 2, (pixels.shape[1] - tile_px) // 2
    if top < 0 or left < 0:
        raise TilesError(f"{path}: expected at least {tile_px}×{tile_px} px, got {pixels.shape[1]}×{pixels.shape[0]}")
    return pixels[top : top + tile_px, left : left + tile_px]
