"""TIFF slides whose tiles are encoded one by one, as scanners do: abbreviated JPEG, RGB JPEG, JPEG 2000, missing tiles."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage

from .painted import Rgb

TILE_PX = 64
APERIO = "Aperio Image Library v1\r\n457x333 (64x64)|MPP = 0.25"
JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"

Encode = Callable[[Rgb], bytes]


def picture(height: int, width: int, seed: int = 0) -> Rgb:
    """Blurred noise under fine noise: all colors, edges and flat places."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.normal(128, 600, (height, width, 3)), (3, 3, 0))
    noisy: Rgb = np.clip(smooth + random.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8)
    return noisy


def jpeg(tile: Rgb, subsampling: str = "420", color: str = "YCBCR") -> bytes:
    return bytes(imagecodecs.jpeg8_encode(tile, 85, colorspace="RGB", outcolorspace=color, subsampling=subsampling))


def rgb_jpeg_that_claims_to_be_jfif(tile: Rgb) -> bytes:
    """libjpeg takes every JFIF stream for YCbCr; OpenSlide believes the TIFF."""
    stream = jpeg(tile, color="RGB")
    return stream[:2] + JFIF + stream[2:]


def jpeg_part(tile: Rgb, tables: bool) -> bytes:
    """The tables of an abbreviated JPEG, or the rest."""
    file = io.BytesIO()
    Image.fromarray(tile).save(file, "JPEG", quality=80, subsampling="4:2:0", streamtype=1 if tables else 2)
    return file.getvalue()


def jpeg2000(tile: Rgb) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(tile, 80, codecformat="J2K", reversible=False))


def write_encoded(path: Path, rgb: Rgb, encode: Encode, photometric: str = "ycbcr", missing: int | None = None, **options: Any) -> Path:
    """A tiled TIFF of one level.

    Args:
        photometric: what the file says of its tiles' color: "rgb", "ycbcr".
        missing: index of a tile of which the file has no byte.
        options: of `tifffile.TiffWriter.write`.
    """
    encoded = [b"" if index == missing else encode(tile) for index, tile in enumerate(_tiles(rgb))]
    with tifffile.TiffWriter(path) as writer:
        add_level(writer, rgb, encoded, photometric, **options)
    # tifffile believes that JPEG is always YCbCr
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite({"rgb": 2, "ycbcr": 6}[photometric])
    return path


def add_level(writer: tifffile.TiffWriter, rgb: Rgb, encoded: list[bytes], photometric: str, **options: Any) -> None:
    defaults = {"compression": "jpeg", "tile": (TILE_PX, TILE_PX), "metadata": None}
    writer.write(iter(encoded), shape=rgb.shape, dtype=np.uint8, photometric=photometric, **(defaults | options))


def encode_tiles(rgb: Rgb, encode: Encode) -> list[bytes]:
    return [encode(tile) for tile in _tiles(rgb)]


def overwrite_tile(path: Path, index: int, change: Callable[[bytearray], None]) -> Path:
    """Damage a tile of the first level in place; its length stays."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        offset, count = page.dataoffsets[index], page.databytecounts[index]
    with open(path, "r+b") as file:
        file.seek(offset)
        data = bytearray(file.read(count))
        change(data)
        assert len(data) == count
        file.seek(offset)
        file.write(data)
    return path


def _tiles(rgb: Rgb) -> Iterator[Rgb]:
    height, width = rgb.shape[:2]
    padded = np.pad(rgb, ((0, -height % TILE_PX), (0, -width % TILE_PX), (0, 0)), mode="edge")
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            yield np.ascontiguousarray(padded[top : top + TILE_PX, left : left + TILE_PX])
