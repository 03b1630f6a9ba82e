"""One native tile of a TIFF slide, from the file to RGB; safe to call from many threads. Keeps nothing: clients/slide.py caches."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import numpy.typing as npt
import simplejpeg

from .errors import SlideError
from .native_tiff import NativeLevel, NotNativeError
from .openslide_reader import Level, why_damaged

Rgb = npt.NDArray[np.uint8]

_SOI = b"\xff\xd8"
_APP0, _APP14, _SOS = 0xE0, 0xEE, 0xDA
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive: what libjpeg decodes
_STANDALONE = (0x01, *range(0xD0, 0xD8))


class _BadTileError(Exception):
    """Why a tile's bytes cannot be decoded."""


class _SuspectJpegError(Exception):
    """A JPEG that libjpeg-turbo decodes with a warning."""

    def __init__(self, stream: bytes, warning: str) -> None:
        super().__init__(warning)
        self.stream = stream


class NativeReader:
    """Decodes tiles with libjpeg-turbo (simplejpeg) and imagecodecs, which release the GIL; equal to OpenSlide's pixels at level 0.

    Args:
        levels: as the file holds them.
        shown: the same levels as OpenSlide shows them.

    Raises:
        NotNativeError: JPEG tables that are none.
    """

    def __init__(self, path: Path, levels: Sequence[NativeLevel], shown: Sequence[Level]) -> None:
        self._path = path
        self._levels = levels
        self._shown = shown
        self._jpeg_heads = [_jpeg_head(level) for level in levels]
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def tile_size(self, level: int) -> tuple[int, int]:
        """Width and height of a tile that is not at the edge."""
        return self._levels[level].tile_width, self._levels[level].tile_height

    def read_tile(self, level: int, column: int, row: int) -> Rgb:
        """uint8 RGB (height, width, 3), cropped at the level's edge; white where the file lacks the tile.

        Raises:
            SlideError: the tile is damaged.
        """
        native = self._levels[level]
        width = min(native.tile_width, native.width - column * native.tile_width)
        height = min(native.tile_height, native.height - row * native.tile_height)
        index = row * native.columns + column
        count = int(native.byte_counts[index])
        if count == 0:
            return np.broadcast_to(np.uint8(255), (height, width, 3))
        try:
            data = os.pread(self._file, count, int(native.offsets[index]))
            if len(data) < count:
                raise _BadTileError(f"the file ends {count - len(data)} bytes before the tile does")
            return _decode(data, native, self._jpeg_heads[level])[:height, :width]
        except _SuspectJpegError as suspicion:
            return self._judge(suspicion, level, column, row)[:height, :width]
        except (_BadTileError, OSError) as error:
            raise self._damaged(level, column, row, str(error)) from error

    def fullest_tile(self) -> tuple[int, int]:
        """Column and row of the tile of level 0 that takes most bytes, and so shows most."""
        row, column = divmod(int(self._levels[0].byte_counts.argmax()), self._levels[0].columns)
        return column, row

    def close(self) -> None:
        """No `read_tile` may be running."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _judge(self, suspicion: _SuspectJpegError, level: int, column: int, row: int) -> Rgb:
        """libjpeg warned, which is fatal in OpenSlide unless it comes after the last pixel. Only OpenSlide can tell which it was."""
        native, downsample = self._levels[level], self._shown[level].downsample
        middle = min((column + 0.5) * native.tile_width, native.width - 1), min((row + 0.5) * native.tile_height, native.height - 1)
        reason = why_damaged(self._path, level, (int(middle[0] * downsample), int(middle[1] * downsample)), (1, 1))
        if reason is not None:
            raise self._damaged(level, column, row, reason)
        try:
            color = "YCBCR" if native.is_ycbcr else "RGB"
            return np.asarray(imagecodecs.jpeg8_decode(suspicion.stream, colorspace=color, outcolorspace="RGB"))
        except imagecodecs.Jpeg8Error as error:
            raise self._damaged(level, column, row, str(error)) from error

    def _damaged(self, level: int, column: int, row: int, reason: str) -> SlideError:
        native = self._levels[level]
        place = f"level {level}, tile ({column}, {row}) of {native.columns}×{native.rows}"
        return SlideError(f"{self._path}: damaged at {place}: expected {native.codec} pixels, {reason}: get the file again")


def _decode(data: bytes, level: NativeLevel, jpeg_head: bytes) -> Rgb:
    """A whole tile, uint8 RGB (tile_height, tile_width, 3)."""
    if level.codec == "JPEG":
        return _decode_jpeg(jpeg_head + _strip_jpeg(data, (level.tile_width, level.tile_height)), level)
    try:
        if level.codec == "JPEG 2000":
            return _decode_jpeg2000(data, level)
        return _as_tile(_unpack(data, level), level)
    except (RuntimeError, ValueError) as error:  # imagecodecs' errors are RuntimeErrors
        raise _BadTileError(str(error)) from error


def _decode_jpeg(stream: bytes, level: NativeLevel) -> Rgb:
    tile = np.empty((level.tile_height, level.tile_width, 3), dtype=np.uint8)
    try:
        # imagecodecs decodes damaged tiles to gray or noise without a word; this decoder tells of libjpeg's warnings.
        simplejpeg.decode_jpeg(stream, "RGB", fastdct=False, fastupsample=False, buffer=tile, strict=True)
    except ValueError as error:
        raise _SuspectJpegError(stream, str(error)) from error
    return tile


def _jpeg_head(level: NativeLevel) -> bytes:
    """What precedes a tile's own markers: its tables, and the color space that TIFF states, which libjpeg otherwise guesses."""
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([level.is_ycbcr])
    try:
        return _SOI + adobe + (_strip_jpeg(level.jpeg_tables, None) if level.jpeg_tables else b"")
    except _BadTileError as error:
        raise NotNativeError(f"its JPEG tables cannot be read: {error}") from error


def _strip_jpeg(data: bytes, size: tuple[int, int] | None) -> bytes:
    """The stream without its SOI and the markers that tell of color, of tables (`size` None) without their EOI.

    Args:
        size: (width, height) that the frame must have, in 3 components.
    """
    if data[:2] != _SOI:
        raise _BadTileError(f"its bytes start with {data[:2].hex()}, no JPEG does")
    kept: list[bytes] = []
    at = 2
    while at + 4 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF:
            raise _BadTileError(f"no JPEG marker at byte {at}")
        if marker == 0xFF or marker in _STANDALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES and size is not None:
            _check_frame(data[at + 4 : at + 2 + length], size)
        if marker == _SOS:
            return b"".join([*kept, data[at:]])
        if marker not in (_APP0, _APP14):
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    if size is not None:
        raise _BadTileError("its JPEG stream ends before the first scan")
    return b"".join(kept)


def _check_frame(frame: bytes, size: tuple[int, int]) -> None:
    """Before anything is allocated for it."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if (width, height) != size or frame[5:6] != b"\x03":
        raise _BadTileError(f"a JPEG of {width}×{height} with {frame[5:6].hex()} components in a tile of {size[0]}×{size[1]}")


def _decode_jpeg2000(data: bytes, level: NativeLevel) -> Rgb:
    width, height = level.tile_width.to_bytes(4, "big"), level.tile_height.to_bytes(4, "big")
    # Codestream, size, no offset; three unsigned 8-bit components without subsampling. Else OpenJPEG would convert or allocate at will.
    if (data[:6], data[8:24], data[40:51]) != (b"\xff\x4f\xff\x51\x00\x2f", width + height + bytes(8), b"\x00\x03" + b"\x07\x01\x01" * 3):
        raise _BadTileError(f"no JPEG 2000 codestream of {level.tile_width}×{level.tile_height} RGB")
    return np.asarray(imagecodecs.jpeg2k_decode(data))


def _unpack(data: bytes, level: NativeLevel) -> bytes:
    count = level.tile_height * level.tile_width * 3
    if level.codec == "LZW":
        return bytes(imagecodecs.lzw_decode(data, out=count))
    if level.codec == "deflate":
        return bytes(imagecodecs.deflate_decode(data, out=count))
    return data


def _as_tile(samples: bytes, level: NativeLevel) -> Rgb:
    shape = level.tile_height, level.tile_width, 3
    count = int(np.prod(shape))
    if len(samples) < count:
        raise _BadTileError(f"{len(samples)} bytes of {count}")
    tile: Rgb = np.frombuffer(samples, dtype=np.uint8, count=count).reshape(shape)
    return np.asarray(imagecodecs.delta_decode(tile, axis=1)) if level.is_differenced else tile
