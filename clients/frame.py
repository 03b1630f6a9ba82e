"""Where model pixels lie on the slide, and their values. Frames and rounding: FRAMES.md. Knows no model and no server."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .area_filter import area_taps, reduce_axis
from .errors import ScaleError
from .mirror import read_mirrored
from .slide import Slide

MPP_RANGE = (0.05, 20.0)  # µm per pixel that a scanner can have
NATIVE_WITHIN = 0.01  # of the wanted mpp: such pixels are used as they are

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Frame:
    """The grid of model pixels over a slide; model pixel i spans the level's pixels [i·scale, (i + 1)·scale).

    Attributes:
        level: of the slide, that is read.
        scale_x: pixels of that level per model pixel; 1 = native.
        width_m: model pixels; the last may reach over the slide's edge.
        mpp_x: micrometers per model pixel as they truly are, which goes into the mask's scale.
    """

    level: int
    scale_x: float
    scale_y: float
    width_m: int
    height_m: int
    mpp_x: float
    mpp_y: float

    @property
    def is_native(self) -> bool:
        return self.scale_x == self.scale_y == 1


def slide_mpp(slide: Slide, override: float | None) -> tuple[float, float]:
    """Micrometers per level-0 pixel, (x, y): the user's, else the slide's own.

    Raises:
        ScaleError: missing or outside 0.05…20; names the option that helps.
    """
    low, high = MPP_RANGE
    if override is not None:
        if not low <= override <= high:
            raise ScaleError(f"--mpp {override:g}: expected micrometers per pixel within {low:g}…{high:g}")
        return override, override
    if slide.mpp is None:
        raise ScaleError(f"{slide.path}: expected micrometers per pixel in the slide's properties, found none: give them with --mpp")
    if not all(low <= mpp <= high for mpp in slide.mpp):
        told = " × ".join(f"{mpp:g}" for mpp in slide.mpp)
        raise ScaleError(
            f"{slide.path}: expected micrometers per pixel within {low:g}…{high:g}, the slide says {told}: give the true value with --mpp"
        )
    return slide.mpp


def choose_frame(slide: Slide, mpp_l0: tuple[float, float], wanted_mpp: float) -> Frame:
    """The frame at a model's scale: a level's own pixels within 1 % of it, else the nearest finer level, reduced by area.

    Args:
        mpp_l0: micrometers per level-0 pixel, (x, y).
    """
    mpps = [(mpp_l0[0] * level.downsample, mpp_l0[1] * level.downsample) for level in slide.levels]
    for index, (level, mpp) in enumerate(zip(slide.levels, mpps, strict=True)):
        if all(abs(axis / wanted_mpp - 1) <= NATIVE_WITHIN for axis in mpp):
            return Frame(index, 1.0, 1.0, level.width, level.height, *mpp)
    finer = [index for index, mpp in enumerate(mpps) if max(mpp) <= wanted_mpp]
    if not finer:
        _log.warning("%s: at %.3g µm per pixel it is coarser than the wanted %.3g: it is enlarged", slide.path, max(mpps[0]), wanted_mpp)
    index = finer[-1] if finer else 0
    level = slide.levels[index]
    scale_x, scale_y = wanted_mpp / mpps[index][0], wanted_mpp / mpps[index][1]
    width_m, height_m = _ceil(level.width / scale_x), _ceil(level.height / scale_y)
    return Frame(index, scale_x, scale_y, width_m, height_m, wanted_mpp, wanted_mpp)


def read_frame(slide: Slide, frame: Frame, x_m: int, y_m: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A rectangle of model pixels, uint8 RGB (height, width, 3). A pixel's value does not depend on the rectangle that it is read in.

    What lies outside the slide is mirrored context, never black.

    Raises:
        ValueError: the rectangle does not meet the slide.
    """

    def read_inside(x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.uint8]:
        return _read_inside(slide, frame, x0, y0, x1, y1)

    return read_mirrored(read_inside, (frame.width_m, frame.height_m), x_m, y_m, width, height)


def prefetch_frame(slide: Slide, frame: Frame, x_m: int, y_m: int, width: int, height: int) -> None:
    """Begin to decode what `read_frame` of the rectangle will read of the slide; returns at once."""
    x0, y0 = max(0, x_m), max(0, y_m)
    x1, y1 = min(frame.width_m, x_m + width), min(frame.height_m, y_m + height)
    if x0 >= x1 or y0 >= y1:
        return
    if frame.is_native:
        slide.prefetch(frame.level, x0, y0, x1 - x0, y1 - y0)
        return
    level = slide.levels[frame.level]
    columns = area_taps(x0, x1, frame.scale_x, level.width)
    rows = area_taps(y0, y1, frame.scale_y, level.height)
    slide.prefetch(frame.level, columns.first, rows.first, columns.length, rows.length)


def _read_inside(slide: Slide, frame: Frame, x0: int, y0: int, x1: int, y1: int) -> npt.NDArray[np.uint8]:
    if frame.is_native:
        return slide.read(frame.level, x0, y0, x1 - x0, y1 - y0)
    level = slide.levels[frame.level]
    columns = area_taps(x0, x1, frame.scale_x, level.width)
    rows = area_taps(y0, y1, frame.scale_y, level.height)
    source = slide.read(frame.level, columns.first, rows.first, columns.length, rows.length)
    reduced = reduce_axis(reduce_axis(source.astype(np.float32), columns, axis=1), rows, axis=0)
    return np.rint(reduced).astype(np.uint8)


def _ceil(value: float) -> int:
    """Ceiling that forgives the last bit, so that 4096 / (0.5 / 0.25) stays whole."""
    return max(1, int(np.ceil(value - 1e-6)))
