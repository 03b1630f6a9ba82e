"""Decodes the image file of one tile: JPEG, PNG or WebP, 8 bits, exactly a tile's size, opaque. Strict, and cheap to refuse. Knows no Triton.

Pixels are taken as they are stored: no color profile and no EXIF rotation is applied. JPEG and WebP carry no checksum, so damage inside
their compressed data may show as wrong pixels; what is cut off is told in all three.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_SCANS = 256  # of a progressive JPEG; each costs a pass over the tile, and encoders write about ten
_METADATA_BYTES = 2**20  # room for a color profile
_SCAN = b"\xff\xda"
_PNG_END = b"IEND\xaeB`\x82"  # the last chunk, which holds nothing, and its checksum
_PLAIN = {"1", "L", "P", "RGB"}
_WITH_ALPHA = {"LA", "RGBA"}


class ImageError(ValueError):
    """The bytes are no image of a tile; the message says what was expected and what came."""


@dataclass(frozen=True)
class _Header:
    """What a file says of itself before anything is decoded."""

    format: str
    width: int
    height: int
    bits: int = 8
    is_animated: bool = False


def decode_tile(data: bytes, tile_px: int) -> npt.NDArray[np.uint8]:
    """One file → uint8 (tile_px, tile_px, 3), RGB as Pillow decodes it. Gray becomes three equal channels; alpha must be opaque everywhere.

    Raises:
        ImageError: another format, size, depth or color model; animated, transparent, damaged or cut off.
    """
    limit = 2 * tile_px * tile_px * 3 + _METADATA_BYTES
    if len(data) > limit:
        raise ImageError(f"expected a file of at most {limit} bytes, got {len(data)}: send one tile, without attachments")
    header = _read_header(data)
    _check_header(header, tile_px)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Pillow warns of what is damaged but legible
            if header.format == "PNG":
                _verify_checksums(data)
            return _to_rgb(data, tile_px)
    except ImageError:
        raise
    except Exception as error:  # Pillow raises of every kind
        raise ImageError(f"expected a whole {header.format} file, it is damaged or cut off: {error}") from error


def _check_header(header: _Header, tile_px: int) -> None:
    """Before anything is decoded, so that a few bytes cannot ask for gigabytes."""
    if (header.width, header.height) != (tile_px, tile_px):
        raise ImageError(f"expected {tile_px} x {tile_px} px, got {header.width} x {header.height}: cut tiles to the model's size")
    if header.bits != 8:
        raise ImageError(f"expected at most 8 bits per channel, got {header.bits}: convert the image first")
    if header.is_animated:
        raise ImageError("expected one picture, got an animation")


def _read_header(data: bytes) -> _Header:
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR" and len(data) >= 33:
        bits = data[24]  # Pillow would drop the lower half of 16
        return _Header("PNG", int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), max(bits, 8), b"acTL" in data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _read_webp_header(data)
    if data.startswith(b"\xff\xd8\xff"):
        return _read_jpeg_header(data)
    raise ImageError(
        f"expected the bytes of a JPEG, PNG or WebP file, got {len(data)} bytes that begin with {data[:8].hex(' ') or 'nothing'}"
    )


def _read_jpeg_header(data: bytes) -> _Header:
    """Walk the segments to the frame's (SOF)."""
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if data.count(_SCAN) > MAX_SCANS:
                raise ImageError(f"expected a JPEG of at most {MAX_SCANS} scans, got {data.count(_SCAN)}: save it as a baseline JPEG")
            height, width = int.from_bytes(data[position + 5 : position + 7]), int.from_bytes(data[position + 7 : position + 9])
            return _Header("JPEG", width, height, data[position + 4])
        position += 1 if marker == 0xFF else 2 + int.from_bytes(data[position + 2 : position + 4])
    raise ImageError("expected a whole JPEG file, it is damaged or cut off before its size is told")


def _read_webp_header(data: bytes) -> _Header:
    """Pillow makes room for the whole canvas when it opens a file, so the size is read here."""
    chunk, body = data[12:16], data[20:30]
    if len(data) < 30 or len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise ImageError(f"expected a whole WEBP file, it is damaged or cut off: {len(data)} bytes are fewer than it announces")
    if chunk == b"VP8X":
        width, height = int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
        return _Header("WEBP", width, height, is_animated=bool(body[0] & 0x02))
    if chunk == b"VP8L":
        sides = int.from_bytes(body[1:5], "little")
        return _Header("WEBP", (sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1)
    return _Header("WEBP", int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF)


def _verify_checksums(data: bytes) -> None:
    """Decoding alone skips those of the pixels, and neither asks for the end."""
    if _PNG_END not in data:
        raise ImageError("expected a whole PNG file, it is damaged or cut off: it has no end")
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        image.verify()


def _to_rgb(data: bytes, tile_px: int) -> npt.NDArray[np.uint8]:
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        if image.size != (tile_px, tile_px) or getattr(image, "n_frames", 1) != 1:
            raise ImageError(f"expected one picture of {tile_px} x {tile_px} px, got {getattr(image, 'n_frames', 1)} of {image.size}")
        if image.mode not in _PLAIN | _WITH_ALPHA:
            raise ImageError(f"expected RGB or gray of 8 bits, got Pillow's mode {image.mode}: convert the image first")
        if image.mode in _WITH_ALPHA or image.has_transparency_data:
            return _drop_opaque_alpha(image)
        return np.array(image.convert("RGB"))


def _drop_opaque_alpha(image: Image.Image) -> npt.NDArray[np.uint8]:
    """What lies under a transparent pixel is nobody's promise, and no network was trained on it."""
    pixels = np.array(image.convert("RGBA"))
    if (pixels[..., 3] != 255).any():
        raise ImageError("expected an opaque image, got transparent pixels: lay it on a background first")
    return np.ascontiguousarray(pixels[..., :3])
