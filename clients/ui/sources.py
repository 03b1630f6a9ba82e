"""Pixels at a model's scale, from an image file or out of a slide. Knows no server."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..area_filter import area_taps, reduce_axis
from ..call_errors import ImageFileError
from ..frame import MPP_RANGE, NATIVE_WITHIN
from ..picture import PictureLimits, decode_picture
from .errors import AskedError

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """What a model is to look at.

    Attributes:
        rgb: uint8 (H, W, 3), at the model's scale.
        data: the same pixels as a file, JPEG or PNG.
        mpp: micrometers per pixel, (x, y), as they truly are; None = unknown, taken for the model's.
    """

    rgb: Rgb
    data: bytes
    mpp: tuple[float, float] | None


def picture_of_file(data: bytes, mpp: float | None, wanted_mpp: float, limits: PictureLimits) -> Picture:
    """A JPEG or PNG file, resized by area where it is more than 1 % off the wanted scale.

    Args:
        mpp: micrometers per pixel of the file; None = taken as it is.

    Raises:
        ImageFileError: damaged, no image, or too large, as it is or at the wanted scale.
        AskedError: the scale is none that a scanner has.
    """
    if mpp is not None:
        check_mpp(mpp)
    rgb = decode_picture(data, limits)
    if mpp is None or abs(mpp / wanted_mpp - 1) <= NATIVE_WITHIN:
        return Picture(rgb, data, None if mpp is None else (mpp, mpp))
    resized = _resize(rgb, wanted_mpp / mpp, limits)
    return Picture(resized, png_of(resized), (wanted_mpp, wanted_mpp))


def check_mpp(mpp: float) -> None:
    """
    Raises:
        AskedError: outside 0.05…20.
    """
    low, high = MPP_RANGE
    if not low <= mpp <= high:  # also where it is no number
        raise AskedError(f"µm per pixel: expected {low:g}…{high:g}, got {mpp:g}")


def png_of(rgb: Rgb) -> bytes:
    """Lossless and quick rather than small."""
    file = BytesIO()
    Image.fromarray(rgb).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _resize(rgb: Rgb, scale: float, limits: PictureLimits) -> Rgb:
    """As `frame.read_frame` reads slides. `scale` is old pixels per new pixel."""
    height, width = (max(1, math.ceil(side / scale - 1e-6)) for side in rgb.shape[:2])
    if height * width > limits.max_px:
        raise ImageFileError(
            f"image: expected at most {limits.max_px} pixels at the model's scale, got {width} × {height}: cut it, or correct µm per pixel"
        )
    rows, columns = area_taps(0, height, scale, rgb.shape[0]), area_taps(0, width, scale, rgb.shape[1])
    reduced = reduce_axis(reduce_axis(rgb.astype(np.float32), columns, axis=1), rows, axis=0)
    return np.rint(reduced).astype(np.uint8)
