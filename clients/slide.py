"""A slide's pixels and properties, level by level. The only module that imports OpenSlide."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt
import openslide

from .errors import SlideError

Rgb = npt.NDArray[np.uint8]

# Pixels are read in fixed blocks: below level 0 OpenSlide interpolates by a fraction of a pixel that depends on where a read starts
# (levels are rarely an exact fraction of level 0), so a pixel's value must not depend on who asks for it.
BLOCK_PX = 512
_MIN_CACHE_BYTES = 64 << 20


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes:
        downsample: level-0 pixels per pixel of this level.
    """

    width: int
    height: int
    downsample: float


class Slide:
    """An open slide; use `open_slide`.

    Attributes:
        mpp: micrometers per level-0 pixel, (x, y), as the file says; None where it does not say.
        bounds_l0: x, y, width, height of the scanned rectangle within level 0.
    """

    def __init__(self, path: Path, handle: openslide.OpenSlide) -> None:
        self.path = path
        self._handle = handle
        self.levels = tuple(_level(handle, index) for index in range(handle.level_count))
        self.mpp = _mpp(handle)
        self.bounds_l0 = _bounds(handle)
        self._blocks: OrderedDict[tuple[int, int, int], Rgb] = OrderedDict()
        self._cached_bytes = 0

    @property
    def width_l0(self) -> int:
        return self.levels[0].width

    @property
    def height_l0(self) -> int:
        return self.levels[0].height

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        """A rectangle in pixels of that level, uint8 RGB (height, width, 3); pixels that the file lacks are white.

        Raises:
            ValueError: the rectangle is not within the level.
            SlideError: the file is damaged there.
        """
        size = self.levels[level]
        if not (0 <= x < x + width <= size.width and 0 <= y < y + height <= size.height):
            raise ValueError(f"expected a rectangle within {size.width}×{size.height}, got {width}×{height} at ({x}, {y})")
        rgb = np.empty((height, width, 3), dtype=np.uint8)
        for row in range(y // BLOCK_PX, (y + height - 1) // BLOCK_PX + 1):
            for column in range(x // BLOCK_PX, (x + width - 1) // BLOCK_PX + 1):
                left, top = column * BLOCK_PX, row * BLOCK_PX
                block = self._block(level, column, row)
                x0, x1 = max(x, left), min(x + width, left + block.shape[1])
                y0, y1 = max(y, top), min(y + height, top + block.shape[0])
                rgb[y0 - y : y1 - y, x0 - x : x1 - x] = block[y0 - top : y1 - top, x0 - left : x1 - left]
        return rgb

    def close(self) -> None:
        self._blocks.clear()
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _block(self, level: int, column: int, row: int) -> Rgb:
        key = (level, column, row)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = self._read_block(level, column, row)
            self._cached_bytes += block.nbytes
            self._forget(level)
        self._blocks.move_to_end(key)
        return block

    def _read_block(self, level: int, column: int, row: int) -> Rgb:
        size = self.levels[level]
        left, top = column * BLOCK_PX, row * BLOCK_PX
        location_l0 = (round(left * size.downsample), round(top * size.downsample))
        shape = (min(BLOCK_PX, size.width - left), min(BLOCK_PX, size.height - top))
        try:
            rgba = np.asarray(self._handle.read_region(location_l0, level, shape))
        except openslide.OpenSlideError as error:
            raise SlideError(f"{self.path}: damaged at level {level}, block ({left}, {top}): {error}") from error
        return _over_white(rgba)

    def _forget(self, level: int) -> None:
        """Keep two rows of blocks: what a walk from top to bottom needs again."""
        budget = max(_MIN_CACHE_BYTES, 2 * BLOCK_PX * 3 * (self.levels[level].width + BLOCK_PX))
        while self._cached_bytes > budget:
            _, oldest = self._blocks.popitem(last=False)
            self._cached_bytes -= oldest.nbytes


def open_slide(path: Path) -> Slide:
    """Open a slide in any format that OpenSlide reads; a context manager.

    Raises:
        SlideError: no such file, no slide, or a damaged one.
    """
    if not path.exists():
        raise SlideError(f"{path}: expected a slide, found no such file: check the path")
    try:
        return Slide(path, openslide.OpenSlide(str(path)))
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideError(
            f"{path}: expected a slide in a format that OpenSlide reads (SVS, tiled TIFF, NDPI, MRXS, …), got another kind of file"
        ) from None
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path}: expected a whole slide, but OpenSlide cannot read it: {error}") from error


def _level(handle: openslide.OpenSlide, index: int) -> Level:
    width, height = handle.level_dimensions[index]
    reported = float(handle.level_downsamples[index])
    whole = round(reported)
    # OpenSlide reports the mean ratio of the sides; where a side was halved with rounding, the true ratio is the whole number.
    sides = zip(handle.level_dimensions[0], (width, height), strict=True)
    is_whole = all(abs(side_l0 - side * whole) <= whole for side_l0, side in sides)
    return Level(width, height, float(whole) if is_whole else reported)


def _mpp(handle: openslide.OpenSlide) -> tuple[float, float] | None:
    values = [handle.properties.get(key) for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)]
    if values[0] is None or values[1] is None:
        return None
    return float(values[0]), float(values[1])


def _bounds(handle: openslide.OpenSlide) -> tuple[int, int, int, int]:
    names = (
        openslide.PROPERTY_NAME_BOUNDS_X,
        openslide.PROPERTY_NAME_BOUNDS_Y,
        openslide.PROPERTY_NAME_BOUNDS_WIDTH,
        openslide.PROPERTY_NAME_BOUNDS_HEIGHT,
    )
    x, y, width, height = (handle.properties.get(name) for name in names)
    if x is None or y is None or width is None or height is None:
        return 0, 0, *handle.dimensions
    return int(x), int(y), int(width), int(height)


def _over_white(rgba: npt.NDArray[np.uint8]) -> Rgb:
    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    weight = alpha.astype(np.float32) / 255
    mixed: Rgb = np.rint(rgba[..., :3] * weight + 255 * (1 - weight)).astype(np.uint8)
    return mixed
