"""What the published sets share: image-level labels in the names of training patches, `img` and `mask` folders for the other splits. No torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from ..patches import PatchRecord
from .annotated import IMAGE_FOLDER, AnnotatedImage, list_files, list_pairs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedSet:
    """How one set lies on disk.

    Attributes:
        task_name: the task whose classes, in order, the label digits stand for.
        name_pattern: a training patch's file name; its group `labels` holds the digits.
        example: a name as published, for messages.
        training_folders: names of the training folder, as published first, then as others renamed it.
        split_folders: the same for the splits with masks.
    """

    task_name: str
    name_pattern: re.Pattern[str]
    example: str
    training_folders: Sequence[str]
    split_folders: Mapping[str, Sequence[str]]

    def parse_labels(self, image: Path) -> tuple[int, ...]:
        """Image-level labels, 0 or 1 per class, from a training patch's name.

        Raises:
            DataError: the name is not as published.
        """
        match = self.name_pattern.fullmatch(image.name)
        if match is None:
            raise DataError(
                f"{image}: expected a training patch named like {self.example!r}, labels in brackets, got {image.name!r}: "
                "restore the published name or take the file away"
            )
        return tuple(int(digit) for digit in re.findall(r"\d", match["labels"]))

    def read_training(self, root: Path) -> list[PatchRecord]:
        """The training patches that hold a class; how many do not is logged.

        Raises:
            DataError: the training folder is missing or empty, or a name is not as published.
        """
        folder = _one_of(root, self.training_folders, "training patches")
        if (folder / IMAGE_FOLDER).is_dir():  # as TPRO and PBIP lay it out
            folder = folder / IMAGE_FOLDER
        records = [PatchRecord(path, self.parse_labels(path), None) for path in list_files(folder, "training patches")]
        return drop_unlabeled(folder, records)

    def read_annotated(self, root: Path, split: str) -> list[AnnotatedImage]:
        """The images of a split with masks.

        Raises:
            DataError: no such split, or its folders are not as published.
        """
        if split not in self.split_folders:
            raise DataError(f"{root}: expected a split with masks ({', '.join(self.split_folders)}), got {split!r}")
        return list_pairs(_one_of(root, self.split_folders[split], f"the images and masks of split {split!r}"))


def drop_unlabeled(source: Path, records: Sequence[PatchRecord]) -> list[PatchRecord]:
    """The records with at least one class (METHODS); the number of others is logged as a warning.

    Raises:
        DataError: none is left.
    """
    kept = [record for record in records if any(record.labels)]
    if not kept:
        raise DataError(f"{source}: expected patches that hold a class, got {len(records)} without any")
    if len(kept) < len(records):
        _log.warning("%s: left out %d of %d patches, which hold no class", source, len(records) - len(kept), len(records))
    return kept


def _one_of(root: Path, names: Sequence[str], what: str) -> Path:
    if not root.is_dir():
        raise DataError(f"{root}: expected the data set's folder, found none")
    there = [name for name in names if (root / name).is_dir()]
    if not there:
        found = ", ".join(sorted(path.name for path in root.iterdir())) or "nothing"
        raise DataError(f"{root}: expected a folder {' or '.join(names)} with {what}, found {found}")
    if len(there) > 1:
        raise DataError(f"{root}: expected one folder with {what}, found {' and '.join(there)}: move one away")
    return root / there[0]
