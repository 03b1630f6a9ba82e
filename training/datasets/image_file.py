"""Image files as arrays. Knows files and their channels, no data set and no class. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import DataError

_SINGLE_CHANNEL = ("P", "L")
_UNREADABLE = (OSError, SyntaxError, ValueError)  # what Pillow raises of a file that is broken; a missing one is told apart first


def read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    """uint8 RGB (H, W, 3).

    Raises:
        DataError: there is no such file, or it is no readable image.
    """
    return np.asarray(_load(path, "RGB"), dtype=np.uint8)


def read_indices(path: Path) -> npt.NDArray[np.uint8]:
    """The raw indices of a label image, uint8 (H, W): a palette PNG's, or the gray values of a single-channel one.

    Raises:
        DataError: there is no such file, it is no readable image, or it is no single-channel image of 8 bits.
    """
    image = _load(path, None)
    if image.mode not in _SINGLE_CHANNEL:
        raise DataError(
            f"{path}: expected a label image (palette or single-channel, 8 bits; Pillow modes P, L), got mode {image.mode}: "
            "save the class indices, not their colors"
        )
    return np.asarray(image, dtype=np.uint8)


def image_shape(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the file's header alone.

    Raises:
        DataError: there is no such file, or it is no readable image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError as error:
        raise _missing(path) from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _load(path: Path, mode: str | None) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy() if mode is None else image.convert(mode)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def _missing(path: Path) -> DataError:
    return DataError(f"{path}: expected an image, found no file")


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: expected a readable image: {error}: copy or download it again")
