"""Images with pixel truth: how they are paired with their masks, and what a mask says. For cutting patches and for evaluation. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.contract import TissueTask

from ..errors import DataError
from .image_file import image_shape, read_indices
from .placement import IGNORE_LABEL

IMAGE_FOLDER = "img"
MASK_FOLDER = "mask"
_DEBRIS = ("Thumbs.db",)  # left by file managers, like the names that start with a dot


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its mask.

    Attributes:
        holds_labels: the mask holds labels 0…C already (a generic folder), not the data set's raw indices.
    """

    image: Path
    mask: Path
    holds_labels: bool = False


def list_files(folder: Path, what: str) -> list[Path]:
    """The folder's files by name, hidden ones left out.

    Args:
        what: what should be there, for the message.

    Raises:
        DataError: no such folder, nothing in it, or a folder in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of {what}, found none")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in _DEBRIS)
    if not paths:
        raise DataError(f"{folder}: expected {what}, found an empty folder")
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: expected {what} alone in {folder}, found a folder: move it away")
    return paths


def list_pairs(folder: Path) -> list[AnnotatedImage]:
    """The images of `folder/img` with their masks `folder/mask/<stem>.png`, by name.

    Raises:
        DataError: a folder is missing, an image has no mask, a mask no image, or two images share a stem.
    """
    images = list_files(folder / IMAGE_FOLDER, "images")
    masks = list_files(folder / MASK_FOLDER, "masks")
    pairs = [AnnotatedImage(image, folder / MASK_FOLDER / f"{image.stem}.png") for image in images]
    _check_stems(images)
    left = set(masks)
    for pair in pairs:
        if pair.mask not in left:
            raise DataError(f"{pair.image}: expected its mask {pair.mask}, found no file: add the mask or take the image away")
        left.remove(pair.mask)
    if left:
        raise DataError(f"{min(left)}: expected an image of that name in {folder / IMAGE_FOLDER}, found none: add it or take the mask away")
    return pairs


def read_mask(annotated: AnnotatedImage, task: TissueTask) -> npt.NDArray[np.uint8]:
    """The mask as labels 0…C of the task, uint8 (H, W) of the image's size; `IGNORE_LABEL` only where a generic folder has it.

    Raises:
        DataError: unreadable, of another size than the image, or with an index that the task's `label_encoding` does not list.
    """
    indices = read_indices(annotated.mask)
    height, width = image_shape(annotated.image)
    if indices.shape != (height, width):
        raise DataError(
            f"{annotated.mask}: expected {width}×{height} px, the size of {annotated.image}, got {indices.shape[1]}×{indices.shape[0]}: "
            "take the mask that was drawn on this image"
        )
    encoding = _label_identity(task) if annotated.holds_labels else dict(task.label_encoding)
    found = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    unknown = [int(index) for index in found if index not in encoding]
    if unknown:
        raise DataError(
            f"{annotated.mask}: expected the indices {_listed(sorted(encoding))} of task {task.name!r}, "
            f"got {_listed(unknown)} in {np.isin(indices, unknown).sum()} px: choose the task that the mask was drawn for"
        )
    table = np.zeros(256, dtype=np.uint8)
    for index, label in encoding.items():
        table[index] = label
    return table[indices]


def _check_stems(images: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for image in images:
        if image.stem in seen:
            raise DataError(f"{image}: expected one image per mask, {seen[image.stem].name} has the same stem: rename one with its mask")
        seen[image.stem] = image


def _label_identity(task: TissueTask) -> dict[int, int]:
    return {label: label for label in (*range(len(task.classes) + 1), IGNORE_LABEL)}


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values)
