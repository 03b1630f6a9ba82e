"""Which TIFF slides can be read tile by tile without OpenSlide, and where their tiles lie. Decodes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tifffile

Codec = Literal["JPEG", "JPEG 2000", "LZW", "deflate", "none"]

# Of these OpenSlide shows a level's tiles as they lie in the file; other TIFF vendors overlap, pad or shift them.
VENDORS = ("aperio", "generic-tiff")
_CODECS: dict[int, Codec] = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32946: "deflate", 33005: "JPEG 2000"}
_JPEG2000_YCBCR = 33003
_RGB, _YCBCR = 2, 6  # photometric interpretations
_NO_PREDICTOR, _HORIZONTAL = 1, 2
_ORIENTATION, _SUBFILE_TYPE = "Orientation", "NewSubfileType"
_REDUCED_IMAGE = 1


class NotNativeError(Exception):
    """A slide that must be read through OpenSlide; the message says why. Never leaves `clients.slide`."""


@dataclass(frozen=True)
class NativeLevel:
    """One level of the pyramid as the file holds it: uint8 RGB tiles in rows from the upper left.

    Attributes:
        is_ycbcr: JPEG only: the tiles' own color space is YCbCr, else RGB.
        jpeg_tables: JPEG only: the stream of tables that the tiles leave out; empty where they are whole.
        is_differenced: LZW and deflate: each sample is the difference from its left neighbor.
        offsets: int64 (rows · columns,), in bytes from the file's start.
        byte_counts: int64, the same shape; 0 = the tile is missing.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    codec: Codec
    is_ycbcr: bool
    jpeg_tables: bytes
    is_differenced: bool
    offsets: npt.NDArray[np.int64]
    byte_counts: npt.NDArray[np.int64]

    @property
    def columns(self) -> int:
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        return -(-self.height // self.tile_height)


def find_native_levels(path: Path, vendor: str, sizes: Sequence[tuple[int, int]]) -> tuple[NativeLevel, ...]:
    """The levels that OpenSlide shows, as the file holds them.

    Args:
        vendor: as OpenSlide names it.
        sizes: (width, height) of OpenSlide's levels.

    Raises:
        NotNativeError: the slide holds anything that this reader would not show exactly as OpenSlide does.
    """
    if vendor not in VENDORS:
        raise NotNativeError(f"its format is {vendor}, native reading is for {' and '.join(VENDORS)}")
    try:
        with tifffile.TiffFile(path) as tiff:
            pages: list[Any] = [page for index, page in enumerate(tiff.pages) if _is_level(page, index, vendor)]
            # Stable: generic TIFFs may hold their levels in any order, OpenSlide sorts them by width.
            pages.sort(key=lambda page: -page.imagewidth)
            found = [(page.imagewidth, page.imagelength) for page in pages]
            if found != list(sizes) or len(set(found)) != len(found):
                raise NotNativeError(f"its levels are {_told(sizes)} to OpenSlide, {_told(found)} to tifffile")
            levels = tuple(_parse(page) for page in pages)
    except NotNativeError:
        raise
    except Exception as error:  # a foreign parser on a foreign file: whatever it raises, OpenSlide has read the same file
        raise NotNativeError(f"tifffile cannot parse it: {error}") from error
    if vendor == "aperio" and len(levels) > 1 and any((level.byte_counts == 0).any() for level in levels):
        raise NotNativeError("tiles are missing, and OpenSlide paints those of an Aperio pyramid from its finer levels")
    return levels


def _is_level(page: Any, index: int, vendor: str) -> bool:
    """OpenSlide's rule; thumbnails, labels and macros are stripped or not marked as reduced."""
    if not page.is_tiled:
        return False
    return vendor == "aperio" or index == 0 or bool(page.tags.valueof(_SUBFILE_TYPE, 0) & _REDUCED_IMAGE)


def _parse(page: Any) -> NativeLevel:
    compression, photometric = int(page.compression), int(page.photometric)
    _check_pixels(page)
    if compression == _JPEG2000_YCBCR:
        raise NotNativeError("its JPEG 2000 tiles are YCbCr (33003), whose conversion to RGB rounds otherwise in OpenSlide")
    codec = _CODECS.get(compression)
    if codec is None:
        raise NotNativeError(f"its compression is {compression}, native reading is for {', '.join(map(str, _CODECS))}")
    if photometric != _RGB and not (codec == "JPEG" and photometric == _YCBCR):
        raise NotNativeError(f"its photometric interpretation is {photometric} with {codec}")
    predictor = int(page.predictor)
    if predictor not in (_NO_PREDICTOR, _HORIZONTAL) or (predictor == _HORIZONTAL and codec not in ("LZW", "deflate")):
        raise NotNativeError(f"its predictor is {predictor} with {codec}")
    level = NativeLevel(
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        codec=codec,
        is_ycbcr=photometric == _YCBCR,
        jpeg_tables=bytes(page.jpegtables or b""),
        is_differenced=predictor == _HORIZONTAL,
        offsets=np.asarray(page.dataoffsets, dtype=np.int64),
        byte_counts=np.asarray(page.databytecounts, dtype=np.int64),
    )
    if not len(level.offsets) == len(level.byte_counts) == level.rows * level.columns:
        raise NotNativeError(f"it lists {len(level.offsets)} tiles for a grid of {level.columns}×{level.rows}")
    return level


def _check_pixels(page: Any) -> None:
    """Three contiguous uint8 samples, as they are on the slide."""
    expected = {
        "samples per pixel": (page.samplesperpixel, 3),
        "bits per sample": (page.bitspersample, 8),
        "sample format": (page.sampleformat, 1),
        "planar configuration": (page.planarconfig, 1),
        "depth": (page.imagedepth, 1),
        "fill order": (page.fillorder, 1),
        "orientation": (page.tags.valueof(_ORIENTATION, 1), 1),
    }
    for name, (value, wanted) in expected.items():
        if value != wanted:
            raise NotNativeError(f"its {name} is {value}, native reading is for {wanted}")


def _told(sizes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{width}×{height}" for width, height in sizes) or "none"
