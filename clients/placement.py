"""Where mask pixels lie on level 0 of the slide, and where QuPath and other viewers that crop to `openslide.bounds` count from. Knows no pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from .frame import Frame
from .slide import Slide


@dataclass(frozen=True)
class Placement:
    """Between the frames `_m` (FRAMES.md) and QuPath's: pixels of level 0, counted from the corner of `openslide.bounds`.

    Attributes:
        scale_l0: level-0 pixels per model pixel, (x, y).
        size_l0: of the slide, (width, height).
        origin_l0: upper left corner of `openslide.bounds`; (0, 0) where there are none.
        mpp_m: micrometers per model pixel, (x, y).
    """

    scale_l0: tuple[float, float]
    size_l0: tuple[int, int]
    origin_l0: tuple[int, int]
    mpp_m: tuple[float, float]

    def from_m(self, points_m: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Corners of model pixels, (n, 2) as x, y → QuPath's pixels, rounded to 0.01; model pixels that reach over the slide's edge end at it."""
        points_l0 = np.minimum(points_m * np.array(self.scale_l0), self.size_l0)
        rounded: npt.NDArray[np.float64] = np.round(points_l0 - self.origin_l0, 2)
        return rounded

    def to_m(self, polygons: shapely.Geometry) -> shapely.Geometry:
        """Polygons in QuPath's pixels → in model pixels."""
        return shapely.transform(polygons, lambda points: (points + self.origin_l0) / self.scale_l0)


def place_frame(slide: Slide, frame: Frame) -> Placement:
    """Where a frame's pixels lie on its slide."""
    downsample = slide.levels[frame.level].downsample
    return Placement(
        (frame.scale_x * downsample, frame.scale_y * downsample),
        (slide.width_l0, slide.height_l0),
        slide.bounds_l0[:2],
        (frame.mpp_x, frame.mpp_y),
    )
