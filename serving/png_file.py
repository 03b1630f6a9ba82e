"""Writes an RGB tile as a PNG file, by the standard library: lossless, so that whoever decodes it must find the same values. Reads none."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8_BIT = bytes((8, 2, 0, 0, 0))  # bits, color type, compression, filter, not interlaced


def encode_png(tile: npt.NDArray[np.uint8]) -> bytes:
    """uint8 (height, width, 3) → the bytes of a file.

    Raises:
        ValueError: another shape or type.
    """
    if tile.ndim != 3 or tile.shape[2] != 3 or tile.dtype != np.uint8 or 0 in tile.shape:
        raise ValueError(f"PNG file: expected uint8 (height, width, 3), got {tile.dtype} {tile.shape}")
    height, width, _ = tile.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # each row begins with the number of its filter: 0 = none
    rows[:, 1:] = tile.reshape(height, -1)
    header = struct.pack(">II", width, height) + _RGB_8_BIT
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes())) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
