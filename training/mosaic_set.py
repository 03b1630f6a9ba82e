"""A test set with exact truth from images of one class each: mosaics of held-out images, and mosaics of the others to train on.

Knows folders named after classes and the mosaics of `mosaic`. What it writes is in format `crops`, with the splits `train` and `test`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from serving.contract import TissueTask
from serving.tasks import get_task

from .errors import DataError
from .mosaic import MosaicOptions, draw_mosaic
from .mosaic_files import DecodedImages
from .pseudomask import write_palette_png
from .unlabeled import IMAGE_SUFFIXES

PROVENANCE_FILE = "provenance.json"
_CACHE_BYTES = 2**28


@dataclass(frozen=True)
class MosaicSetConfig:
    """Compose images with exact truth out of images that hold a single class each; the classes are the folders, in the task's order."""

    data: Path
    """Holds a folder of images for each class."""
    folders: tuple[str, ...]
    """Names of these folders, in the order of the task's classes."""
    output: Path
    """Folder that gets train/{img,mask} and test/{img,mask}."""
    task: str
    """One of the tasks in serving/tasks.py."""
    grid: int = 4
    """Pieces per side of a mosaic's parts."""
    piece_px: int = 128
    train: int = 60
    """Mosaics to write of the training images."""
    test: int = 20
    """Mosaics to write of the held-out images."""
    held_out: float = 0.3
    """Share of each class's images that are held out."""
    seed: int = 0


def write_mosaic_set(config: MosaicSetConfig) -> Path:
    """Write both splits; the folder appears whole or not at all.

    Raises:
        DataError: no such folders, too few images, or the output is there.
        RecipeError: options that cannot be.
    """
    if config.output.exists():
        raise DataError(f"{config.output}: expected a folder that does not exist yet, found one: remove it or choose another")
    side_px = config.grid * config.piece_px
    task = dataclasses.replace(get_task(config.task), tile_px=side_px)
    splits = split_images(config, task)
    partial = config.output.with_name(config.output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    for number, (split, count) in enumerate((("train", config.train), ("test", config.test))):
        # Seeds far apart: the two splits share no draw.
        options = MosaicOptions((config.grid, config.grid), config.piece_px, count, seed=2 * config.seed + number)
        _write_split(partial / split, splits[split], task, options)
    told = dataclasses.asdict(config) | {"data": config.data.name, "output": None}
    told["images"] = {split: [[path.name for path in paths] for paths in by_class] for split, by_class in splits.items()}
    (partial / PROVENANCE_FILE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, config.output)
    return config.output


def split_images(config: MosaicSetConfig, task: TissueTask) -> dict[str, list[list[Path]]]:
    """split → the images of each class. Which are held out follows from seed and name alone.

    Raises:
        DataError: another number of folders than classes, or one with too few images.
    """
    if len(config.folders) != len(task.classes):
        raise DataError(
            f"--folders: expected {len(task.classes)}, one for each of {', '.join(task.class_names)}, got {len(config.folders)}"
        )
    splits: dict[str, list[list[Path]]] = {"train": [], "test": []}
    for folder in config.folders:
        paths = sorted(path for path in (config.data / folder).glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        order = sorted(paths, key=lambda path: hashlib.sha256(f"{config.seed}/{path.name}".encode()).digest())
        count = round(config.held_out * len(order))
        if not 0 < count < len(order):
            raise DataError(f"{config.data / folder}: expected images for both splits, found {len(order)} of which {count} are held out")
        splits["test"].append(sorted(order[:count]))
        splits["train"].append(sorted(order[count:]))
    return splits


def _write_split(folder: Path, by_class: Sequence[Sequence[Path]], task: TissueTask, options: MosaicOptions) -> None:
    images = [DecodedImages(paths, task, None, _CACHE_BYTES // len(by_class)) for paths in by_class]
    for name in ("img", "mask"):
        (folder / name).mkdir(parents=True)
    for index in range(options.count):
        rgb, labels = draw_mosaic(images, task, options, np.random.default_rng((options.seed, index)))
        Image.fromarray(rgb).save(folder / "img" / f"{index:04d}.png")
        write_palette_png(folder / "mask" / f"{index:04d}.png", labels, task)
