"""A slide's properties, and the pixels of those that are not read natively. The only module that imports OpenSlide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import openslide

from .errors import SlideError

Rgb = npt.NDArray[np.uint8]

# Pixels are read in fixed blocks: below level 0 OpenSlide interpolates by a fraction of a pixel that depends on where a read starts
# (levels are rarely an exact fraction of level 0), so a pixel's value must not depend on who asks for it.
BLOCK_PX = 512
_ICC_SIZE = "openslide.icc-size"


@dataclass(frozen=True)
class Level:
    """One level of the pyramid.

    Attributes:
        downsample: level-0 pixels per pixel of this level.
    """

    width: int
    height: int
    downsample: float


@dataclass(frozen=True)
class Properties:
    """What OpenSlide says of a slide, whoever reads its pixels.

    Attributes:
        vendor: OpenSlide's name of the format.
        mpp: micrometers per level-0 pixel, (x, y); None where the file does not say.
        bounds_l0: x, y, width, height of the scanned rectangle within level 0.
        has_icc: the file holds an ICC profile.
    """

    vendor: str
    levels: tuple[Level, ...]
    mpp: tuple[float, float] | None
    bounds_l0: tuple[int, int, int, int]
    has_icc: bool


class TileReader(Protocol):
    """Gives the tiles of a fixed grid, from many threads at a time."""

    def tile_size(self, level: int) -> tuple[int, int]:
        """Width and height of a tile that is not at the edge."""
        ...

    def read_tile(self, level: int, column: int, row: int) -> Rgb:
        """uint8 RGB (height, width, 3), cropped at the level's edge."""
        ...

    def close(self) -> None:
        """Called once, when no tile is being read."""
        ...


class OpenSlideReader:
    """Reads blocks of `BLOCK_PX`; safe to call from many threads, as OpenSlide is.

    Raises:
        SlideError: no such file, no slide, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = _open(path)
        self.properties = _read_properties(self._handle)

    def tile_size(self, level: int) -> tuple[int, int]:
        """Width and height of a block that is not at the edge."""
        return BLOCK_PX, BLOCK_PX

    def read_tile(self, level: int, column: int, row: int) -> Rgb:
        """uint8 RGB (height, width, 3), cropped at the level's edge; white where the file lacks pixels.

        Raises:
            SlideError: the file is damaged there.
        """
        size = self.properties.levels[level]
        left, top = column * BLOCK_PX, row * BLOCK_PX
        location_l0 = (round(left * size.downsample), round(top * size.downsample))
        shape = (min(BLOCK_PX, size.width - left), min(BLOCK_PX, size.height - top))
        try:
            return _read_region(self._handle, level, location_l0, shape)
        except openslide.OpenSlideError as error:
            # A handle that failed once fails for good: another one tells whether it is this block that is damaged.
            reason = why_damaged(self._path, level, location_l0, shape)
            if reason is not None:
                raise SlideError(f"{self._path}: damaged at level {level}, block ({left}, {top}): {reason}") from error
        with openslide.OpenSlide(str(self._path)) as handle:
            return _read_region(handle, level, location_l0, shape)

    def first_difference(self, reader: TileReader, place_l0: tuple[int, int]) -> str | None:
        """What another reader shows otherwise than OpenSlide, in one tile of each level; None = nothing, or OpenSlide cannot read it either.

        Args:
            place_l0: column and row of the tile of level 0 to look at; of lower levels it is the first, which OpenSlide does not move.
        """
        for level, size in enumerate(self.properties.levels):
            column, row = place_l0 if level == 0 else (0, 0)
            width, height = reader.tile_size(level)
            left, top = column * width, row * height
            place = f"level {level}, tile ({column}, {row})"
            try:
                expected = _read_region(self._handle, level, (left, top), (min(width, size.width - left), min(height, size.height - top)))
                if not np.array_equal(reader.read_tile(level, column, row), expected):
                    return f"it decodes to other pixels than OpenSlide's at {place}"
            except openslide.OpenSlideError:
                return None
            except SlideError as error:
                return f"OpenSlide alone can decode {place}: {error}"
        return None

    def close(self) -> None:
        """No `read_tile` may be running."""
        self._handle.close()


def _open(path: Path) -> openslide.OpenSlide:
    if not path.exists():
        raise SlideError(f"{path}: expected a slide, found no such file: check the path")
    try:
        return openslide.OpenSlide(str(path))
    except openslide.OpenSlideUnsupportedFormatError:
        raise SlideError(
            f"{path}: expected a slide in a format that OpenSlide reads (SVS, tiled TIFF, NDPI, MRXS, …), got another kind of file"
        ) from None
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path}: expected a whole slide, but OpenSlide cannot read it: {error}") from error


def _read_region(handle: openslide.OpenSlide, level: int, location_l0: tuple[int, int], shape: tuple[int, int]) -> Rgb:
    """uint8 RGB (height, width, 3), white where the file lacks pixels.

    Args:
        shape: width and height in pixels of the level.

    Raises:
        openslide.OpenSlideError: the file is damaged there, or was where this handle read before.
    """
    return _over_white(np.asarray(handle.read_region(location_l0, level, shape)))


def _read_properties(handle: openslide.OpenSlide) -> Properties:
    return Properties(
        vendor=handle.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        levels=tuple(_level(handle, index) for index in range(handle.level_count)),
        mpp=_mpp(handle),
        bounds_l0=_bounds(handle),
        has_icc=_ICC_SIZE in handle.properties,
    )


def why_damaged(path: Path, level: int, location_l0: tuple[int, int], shape: tuple[int, int]) -> str | None:
    """What OpenSlide says against a region, read with a handle of its own; None = it reads it.

    Args:
        shape: width and height in pixels of the level.
    """
    try:
        with openslide.OpenSlide(str(path)) as handle:
            handle.read_region(location_l0, level, shape)
    except openslide.OpenSlideError as error:
        return str(error)
    return None


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
