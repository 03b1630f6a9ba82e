"""A folder of patches with image-level labels: `images/`, `labels.csv`, optional `masks/`. Writes generated tissue, reads anybody's. No torch.

`labels.csv` has a header `image,<class>,<class>,…` in the task's order and a row of 0 and 1 for every image.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.tasks import get_task

from .errors import DataError
from .tissue.patch import draw_patch

LABELS_FILE = "labels.csv"
MIN_SHARE = 0.01  # of a patch's pixels: a class that covers no more is not on its image-level label (METHODS)
_TASK = get_task("demo")
_SEED_STRIDE = 1_000_003  # prime: patches of different data sets share no seed until there are a million of them


@dataclass(frozen=True)
class PatchRecord:
    """One patch of a folder.

    Attributes:
        labels: image-level, 0 or 1 per class, in the task's order.
        mask: pixel truth where the folder has it; for evaluation, never for training.
    """

    image: Path
    labels: tuple[int, ...]
    mask: Path | None


def write_patches(folder: Path, count: int, seed: int, processes: int | None = None) -> None:
    """Generate `count` patches of task `demo`; the folder appears whole or not at all.

    Raises:
        DataError: the folder is already there.
    """
    if folder.exists():
        raise DataError(f"{folder}: expected a folder that does not exist yet, found one: remove it or choose another")
    partial_folder = folder.with_name(folder.name + ".partial")
    if partial_folder.exists():
        shutil.rmtree(partial_folder)
    for name in ("images", "masks"):
        (partial_folder / name).mkdir(parents=True)
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        rows = list(pool.map(partial(_write_patch, partial_folder, seed), range(count), chunksize=16))
    write_labels(partial_folder, _TASK.class_names, rows)
    os.rename(partial_folder, folder)


def write_labels(folder: Path, class_names: Sequence[str], rows: Iterable[Sequence[str | int]]) -> None:
    """Write `labels.csv`: a row is an image's name and 0 or 1 per class."""
    with open(folder / LABELS_FILE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *class_names])
        writer.writerows(rows)


def image_labels(mask: npt.NDArray[np.uint8], num_classes: int) -> tuple[int, ...]:
    """Which classes cover more than 1 % of a mask of labels 0…C; pixels above C are ignored ones."""
    shares = np.bincount(mask.ravel(), minlength=num_classes + 1)[1 : num_classes + 1] / mask.size
    return tuple(int(share > MIN_SHARE) for share in shares)


def save_mask(path: Path, mask: npt.NDArray[np.uint8], colors: Sequence[tuple[int, int, int]]) -> None:
    """Write labels 0…C as a palette PNG, 0 = white, ignored pixels (255) gray."""
    image = Image.fromarray(mask, mode="P")
    palette = [255, 255, 255, *(channel for color in colors for channel in color)]
    if mask.max() > len(colors):
        # Pillow writes as few bits per pixel as the palette needs: a short one would cut 255 down to another label.
        palette += [128] * (768 - len(palette))
    image.putpalette(palette)
    image.save(path)


def read_folder(folder: Path, class_names: Sequence[str]) -> list[PatchRecord]:
    """The patches that `labels.csv` lists.

    Raises:
        DataError: a file is missing, the header names other classes, or a row cannot be used; names the file and line.
    """
    path = folder / LABELS_FILE
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except FileNotFoundError:
        raise DataError(f"{path}: expected image-level labels there, found no file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: expected a CSV file in UTF-8: {error}") from error
    if header != ["image", *class_names]:
        raise DataError(f"{path}: expected the header {','.join(['image', *class_names])}, got {','.join(header)}")
    if not rows:
        raise DataError(f"{path}: expected a row for every image, got none")
    return [_parse_row(folder, f"{path}, line {line}", row, len(class_names)) for line, row in enumerate(rows, start=2)]


def _write_patch(folder: Path, seed: int, index: int) -> list[str | int]:
    rgb, mask = draw_patch(seed * _SEED_STRIDE + index, _TASK.tile_px)
    name = f"{index:05d}.png"
    Image.fromarray(rgb).save(folder / "images" / name, compress_level=1)
    save_mask(folder / "masks" / name, mask, [tissue.color for tissue in _TASK.classes])
    return [name, *image_labels(mask, len(_TASK.classes))]


def _parse_row(folder: Path, where: str, row: Sequence[str], num_classes: int) -> PatchRecord:
    if len(row) != num_classes + 1 or any(value not in ("0", "1") for value in row[1:]):
        raise DataError(f"{where}: expected an image name and {num_classes} values of 0 or 1, got {','.join(row)}")
    image, mask = folder / "images" / row[0], folder / "masks" / Path(row[0]).with_suffix(".png")
    if not image.is_file():
        raise DataError(f"{where}: expected the image {image}, found no file")
    return PatchRecord(image, tuple(int(value) for value in row[1:]), mask if mask.is_file() else None)
