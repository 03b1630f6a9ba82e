"""Annotated images of any data format, read one at a time. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from serving.contract import TissueTask
from training.datasets.catalog import AnnotatedImage, read_annotated, read_mask
from training.datasets.folds import read_split
from training.datasets.image_file import read_rgb

from .errors import EvaluationError
from .evaluate_images import TruthImage


def list_images(root: Path, task: TissueTask, data_format: str, split: str, only: Path | None) -> list[AnnotatedImage]:
    """The annotated images to evaluate on.

    Args:
        only: a `split.json` of `histoserve patches`; its "test" images alone are taken.

    Raises:
        DataError: the data cannot be read.
        EvaluationError: the split names images that are not there, or none is left.
    """
    found = read_annotated(root, task, data_format, split)
    if only is None:
        return found
    names = set(read_split(only).test)
    missing = names - {annotated.image.name for annotated in found}
    if missing or not names:
        raise EvaluationError(f"{only}: expected test images that are in {root}, got {sorted(missing) or 'none'}")
    return [annotated for annotated in found if annotated.image.name in names]


def read_images(annotated: list[AnnotatedImage], task: TissueTask) -> Iterator[TruthImage]:
    """Pixels and truth, one image at a time."""
    for entry in annotated:
        yield TruthImage(entry.image.stem, read_rgb(entry.image), read_mask(entry, task))
