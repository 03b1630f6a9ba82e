"""Every data format by its name: the one entry that the train, patches and evaluate commands read data through. No torch.

| format | training patches | images with masks (split) |
|---|---|---|
| `folder` | `images/`, `labels.csv` | `images/`, `masks/` of labels 0…C (all) |
| `bcss`, `luad` | `training/` | `val/{img,mask}`, `test/{img,mask}` (val, test) |
| `wsss4luad` | `1.training/` | `2.validation/{img,mask}`, `3.testing/{img,mask}` (val, test) |
| `glas` | none: cut them | `<split>/{img,mask}`, 255 = gland |
| `crops` | none: cut them | `{img,mask}` (all), or `<split>/{img,mask}` |
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from serving.contract import TissueTask
from serving.tasks import get_task

from ..errors import DataError
from ..patches import LABELS_FILE, PatchRecord, read_folder
from .annotated import AnnotatedImage, list_pairs, read_mask
from .bcss import BCSS
from .luad import LUAD
from .published import PublishedSet, drop_unlabeled
from .wsss4luad import WSSS4LUAD

__all__ = ["ALL", "AnnotatedImage", "DataFormat", "read_annotated", "read_mask", "read_training"]

DataFormat = Literal["folder", "bcss", "luad", "wsss4luad", "glas", "crops"]
ALL = "all"  # the split of formats that have none

_PUBLISHED: dict[str, PublishedSet] = {"bcss": BCSS, "luad": LUAD, "wsss4luad": WSSS4LUAD}
_GLAS_TASK = "glas"


def read_training(root: Path, task: TissueTask, data_format: str) -> list[PatchRecord]:
    """The training patches with their image-level labels, in the task's order; those without any class are left out and counted in the log.

    Args:
        data_format: one of `DataFormat`.

    Raises:
        DataError: not the format's folders or names, classes of another task, or a format without image-level labels.
    """
    if data_format in _PUBLISHED:
        published = _PUBLISHED[data_format]
        _check_classes(root, task, data_format, published.task_name)
        return published.read_training(root)
    if data_format == "folder":
        return drop_unlabeled(root / LABELS_FILE, read_folder(root, task.class_names))
    _check_known(root, data_format)
    raise DataError(
        f"{root}: format {data_format!r} has masks, no image-level labels: cut it with `histoserve patches`, then read 'folder'"
    )


def read_annotated(root: Path, task: TissueTask, data_format: str, split: str = ALL) -> list[AnnotatedImage]:
    """The images of a split and their masks, by name; `read_mask` opens a mask.

    Args:
        data_format: one of `DataFormat`.
        split: as the table above names them; `all` where the format has no splits.

    Raises:
        DataError: not the format's folders, an image without a mask or the other way round, classes of another task, or no such split.
    """
    if data_format in _PUBLISHED:
        published = _PUBLISHED[data_format]
        _check_classes(root, task, data_format, published.task_name)
        return published.read_annotated(root, split)
    _check_known(root, data_format)
    if data_format == "glas":
        _check_classes(root, task, data_format, _GLAS_TASK)
        return list_pairs(_split_folder(root, split))
    if data_format == "crops":
        return list_pairs(root if split == ALL else _split_folder(root, split))
    if split != ALL:
        raise DataError(f"{root}: format {data_format!r} has no splits: expected split {ALL!r}, got {split!r}")
    return _folder_pairs(root, task)


def _folder_pairs(root: Path, task: TissueTask) -> list[AnnotatedImage]:
    pairs = []
    for record in read_folder(root, task.class_names):
        if record.mask is None:
            expected = root / "masks" / f"{record.image.stem}.png"
            raise DataError(f"{record.image}: expected its mask {expected}, found no file: evaluation and cutting need one for every image")
        pairs.append(AnnotatedImage(record.image, record.mask, holds_labels=True))
    return pairs


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise DataError(f"{root}: expected the data set's folder, found none")
    splits = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if split not in splits:
        raise DataError(f"{root}: expected one of its splits ({', '.join(splits) or 'it has none'}), got {split!r}")
    return root / split


def _check_classes(root: Path, task: TissueTask, data_format: str, task_name: str) -> None:
    # Digits and indices are read by position: another task's classes would be taken for these without a word.
    expected = get_task(task_name).class_names
    if task.class_names != expected:
        raise DataError(
            f"{root}: format {data_format!r} has the classes {', '.join(expected)}, task {task.name!r} has {', '.join(task.class_names)}: "
            f"choose task {task_name!r}"
        )


def _check_known(root: Path, data_format: str) -> None:
    if data_format not in get_args(DataFormat):
        raise DataError(f"{root}: unknown data format {data_format!r}: expected one of {', '.join(get_args(DataFormat))}")
