"""A slide and its mask made small together, so that one lies on the other. Knows no server and no store."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from .frame import Frame, read_frame
from .slide import Slide

LONGEST_SIDE_PX = 2048
_ROWS = 256


class LabelThumbnail:
    """Collects every `factor`-th label while strips go by.

    Attributes:
        factor: power of two; model pixels per thumbnail pixel.
        labels: uint8 (ceil(height_m / factor), ceil(width_m / factor)).
    """

    def __init__(self, frame: Frame) -> None:
        self.factor = 1
        while max(frame.width_m, frame.height_m) > self.factor * LONGEST_SIDE_PX:
            self.factor *= 2
        self._rows = _centers(frame.height_m, self.factor)
        self._columns = _centers(frame.width_m, self.factor)
        self.labels = np.zeros((len(self._rows), len(self._columns)), dtype=np.uint8)

    def add(self, y_m: int, labels: npt.NDArray[np.uint8]) -> None:
        """A strip of whole rows that starts at model row `y_m`."""
        here = (self._rows >= y_m) & (self._rows < y_m + len(labels))
        self.labels[here] = labels[self._rows[here] - y_m][:, self._columns]


def read_thumbnail(slide: Slide, frame: Frame, factor: int) -> npt.NDArray[np.uint8]:
    """The slide reduced by `factor` against the frame, uint8 RGB, read strip by strip from the nearest finer level."""
    coarse = coarsen(slide, frame, factor)
    strips = (
        read_frame(slide, coarse, 0, top, coarse.width_m, min(_ROWS, coarse.height_m - top)) for top in range(0, coarse.height_m, _ROWS)
    )
    return np.concatenate(list(strips))


def coarsen(slide: Slide, frame: Frame, factor: int) -> Frame:
    """The frame whose pixels are `factor` × `factor` pixels of this one."""
    finest = slide.levels[frame.level].downsample
    reduction = min(frame.scale_x, frame.scale_y) * factor
    usable = [index for index, level in enumerate(slide.levels) if level.downsample <= finest * reduction and index >= frame.level]
    level = usable[-1]
    share = finest / slide.levels[level].downsample
    return dataclasses.replace(
        frame,
        level=level,
        scale_x=frame.scale_x * factor * share,
        scale_y=frame.scale_y * factor * share,
        width_m=-(-frame.width_m // factor),
        height_m=-(-frame.height_m // factor),
        mpp_x=frame.mpp_x * factor,
        mpp_y=frame.mpp_y * factor,
    )


def _centers(side_m: int, factor: int) -> npt.NDArray[np.int64]:
    return np.minimum(np.arange(0, side_m, factor) + factor // 2, side_m - 1)
