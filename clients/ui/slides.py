"""A folder of slides: names, thumbnails, and regions at a model's scale. Knows no server and no HTTP."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import ScaleError
from ..frame import MPP_RANGE, Frame, choose_frame, read_frame, slide_mpp
from ..picture import PictureLimits
from ..slide import Slide, open_slide
from ..slide_list import SUFFIXES
from ..thumbnail import read_thumbnail
from .errors import AskedError
from .sources import Picture, check_mpp, png_of

THUMBNAIL_PX = 1024
_OPEN = 4  # slides at a time
_LEAST_PX = 32

Rgb = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Overview:
    """A slide as a whole.

    Attributes:
        width_l0: level-0 pixels.
        mpp: micrometers per level-0 pixel, (x, y), as the file says; None where it does not say.
        thumbnail: uint8 RGB, its longest side at most `THUMBNAIL_PX`.
    """

    name: str
    width_l0: int
    height_l0: int
    mpp: tuple[float, float] | None
    thumbnail: Rgb


@dataclass(frozen=True)
class Place:
    """A square that somebody chose.

    Attributes:
        x: of its center, share of the slide's width, 0…1.
        y: of its center, share of the slide's height, 0…1.
        side_px: in model pixels.
        mpp: micrometers per level-0 pixel where the slide does not say them or says them wrongly.
    """

    x: float
    y: float
    side_px: int
    mpp: float | None = None


class SlideFolder:
    """The slides directly in a folder, by name; a slide is opened when it is asked for. Thread-safe, one reading at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: OrderedDict[str, Slide] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """As they are now, sorted.

        Raises:
            AskedError: the folder cannot be read any more.
        """
        try:
            return sorted(child.name for child in self.folder.iterdir() if child.suffix.lower() in SUFFIXES and child.is_file())
        except OSError as error:
            raise AskedError(f"{self.folder}: expected a folder of slides, cannot read it: {error.strerror}: bring it back") from error

    def close(self) -> None:
        with self._lock:
            while self._open:
                self._open.popitem()[1].close()

    def overview(self, name: str) -> Overview:
        """
        Raises:
            AskedError: none of that name is here.
            SlideError: it cannot be read.
        """
        with self._lock:
            slide = self._slide(name)
            whole = Frame(0, 1.0, 1.0, slide.width_l0, slide.height_l0, 1.0, 1.0)  # in pixels: the scale may be unknown
            factor = -(-max(slide.width_l0, slide.height_l0) // THUMBNAIL_PX)
            return Overview(name, slide.width_l0, slide.height_l0, slide.mpp, read_thumbnail(slide, whole, factor))

    def picture(self, name: str, place: Place, wanted_mpp: float, limits: PictureLimits) -> Picture:
        """The square's pixels at the model's scale; moved inward, or cut, where it reaches over the slide's edge.

        Raises:
            AskedError: none of that name is here, the place lies outside, or the slide's scale is missing or absurd and `place` has none.
            SlideError: it cannot be read.
        """
        _check(place, limits)
        with self._lock:
            slide = self._slide(name)
            frame = choose_frame(slide, _mpp(slide, place.mpp), wanted_mpp)
            x_m, width = _span(place.x, place.side_px, frame.width_m)
            y_m, height = _span(place.y, place.side_px, frame.height_m)
            rgb = read_frame(slide, frame, x_m, y_m, width, height)
        return Picture(rgb, png_of(rgb), (frame.mpp_x, frame.mpp_y))

    def _slide(self, name: str) -> Slide:
        if name not in self.names():  # also what keeps paths out
            raise AskedError(f"slide {name!r}: expected one of {self.folder}, found none of that name: reload the page")
        if name not in self._open:
            self._open[name] = open_slide(self.folder / name)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(name)
        return self._open[name]


def _check(place: Place, limits: PictureLimits) -> None:
    if not (0 <= place.x <= 1 and 0 <= place.y <= 1):
        raise AskedError(f"region: expected a center within the slide (0…1), got ({place.x:g}, {place.y:g})")
    most_px = int(limits.max_px**0.5)
    if not _LEAST_PX <= place.side_px <= most_px:
        raise AskedError(f"region: expected a side of {_LEAST_PX}…{most_px} pixels, got {place.side_px}")
    if place.mpp is not None:
        check_mpp(place.mpp)


def _mpp(slide: Slide, typed: float | None) -> tuple[float, float]:
    try:
        return slide_mpp(slide, typed)
    except ScaleError:  # whose remedy is a flag
        told = "has none" if slide.mpp is None else f"says {slide.mpp[0]:g}"
        low, high = MPP_RANGE
        raise AskedError(
            f"{slide.path.name}: expected µm per pixel within {low:g}…{high:g}, the file {told}: type the true value under “µm per pixel”"
        ) from None


def _span(center: float, side: int, whole: int) -> tuple[int, int]:
    """First pixel and length along an axis."""
    length = min(side, whole)
    return int(np.clip(round(center * whole) - length // 2, 0, whole - length)), length
