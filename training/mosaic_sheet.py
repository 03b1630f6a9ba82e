"""Images with their masks beside them as one picture, for a person to look at. Knows files, not how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.contract import TissueTask

from .datasets.image_file import read_indices, read_rgb
from .errors import DataError
from .patch_dataset import PatchSample

_GAP_PX = 4
_GAP_GRAY = 96  # masks are white where they are background


def write_contact_sheet(samples: Sequence[PatchSample], task: TissueTask, path: Path, columns: int = 4, rows: int = 4) -> None:
    """Write the first `columns` × `rows` samples as one PNG, each an image and, to its right, its mask in the task's colors (background white).

    Args:
        samples: with targets of the image's size, all of one size, as `training.mosaic.write_mosaics` returns them.

    Raises:
        DataError: no sample, one without a target, or one of another size.
    """
    if not samples or columns < 1 or rows < 1:
        raise DataError(f"contact sheet: expected at least one sample, column and row, got {len(samples)}, {columns} and {rows}")
    pairs = [_pair(sample, task) for sample in samples[: columns * rows]]
    height, width = pairs[0].shape[:2]
    sheet = np.full((rows * (height + _GAP_PX) + _GAP_PX, columns * (width + _GAP_PX) + _GAP_PX, 3), _GAP_GRAY, np.uint8)
    for index, pair in enumerate(pairs):
        if pair.shape != pairs[0].shape:
            raise DataError(
                f"contact sheet: expected images of one size, {width // 2}×{height}, got {samples[index].image} of "
                f"{pair.shape[1] // 2}×{pair.shape[0]}: show it apart"
            )
        top, left = (_GAP_PX + cell * (side + _GAP_PX) for cell, side in zip(divmod(index, columns), (height, width), strict=True))
        sheet[top : top + height, left : left + width] = pair
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path)


def _pair(sample: PatchSample, task: TissueTask) -> npt.NDArray[np.uint8]:
    """Image and mask side by side, uint8 (H, 2·W, 3)."""
    if sample.target is None:
        raise DataError(f"{sample.image}: expected a mask to show beside it, got none")
    rgb, labels = read_rgb(sample.image), read_indices(sample.target)
    if labels.shape != rgb.shape[:2] or labels.max() > len(task.classes):
        raise DataError(
            f"{sample.target}: expected labels of 0…{len(task.classes)} on {rgb.shape[1]}×{rgb.shape[0]} px, "
            f"got up to {labels.max()} on {labels.shape[1]}×{labels.shape[0]}"
        )
    colors = np.array([(255, 255, 255), *(tissue.color for tissue in task.classes)], np.uint8)
    return np.concatenate([rgb, colors[labels]], axis=1)
