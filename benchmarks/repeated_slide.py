"""Slides of any size out of one small generated picture, written in the memory of a tile. Knows no measurement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
import tifffile

from training.slides import draw_slide_labels
from training.tissue.render import render

_PATTERN_PX, _JPEG_PX = 1024, 256


def write_repeated(path: Path, width: int, height: int, mpp: float = 0.5, seed: int = 1) -> None:
    """A tiled JPEG TIFF (4:2:0, quality 90) with all its levels, made of one small generated picture again and again: a tile's memory."""
    picture = render(draw_slide_labels(np.random.default_rng([seed, 11]), (_PATTERN_PX, _PATTERN_PX)), seed)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        level = 0
        while level == 0 or max(width, height) > _JPEG_PX * 4:
            writer.write(
                _jpeg_tiles(picture, width, height),
                shape=(height, width, 3),
                dtype=np.uint8,
                tile=(_JPEG_PX, _JPEG_PX),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if level else 0,
                resolution=(1e4 / mpp, 1e4 / mpp),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
            picture = picture.reshape(len(picture) // 2, 2, len(picture) // 2, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
            width, height, mpp, level = width // 2, height // 2, mpp * 2, level + 1


def _jpeg_tiles(picture: npt.NDArray[np.uint8], width: int, height: int) -> Iterator[bytes]:
    whole = np.tile(picture, (max(1, _JPEG_PX // len(picture)),) * 2 + (1,))
    side = len(whole) // _JPEG_PX
    blocks = whole.reshape(side, _JPEG_PX, side, _JPEG_PX, 3).swapaxes(1, 2)
    encoded = [[simplejpeg.encode_jpeg(np.ascontiguousarray(block), 90, "RGB", "420") for block in row] for row in blocks]
    for row in range(-(-height // _JPEG_PX)):
        for column in range(-(-width // _JPEG_PX)):
            yield encoded[row % side][column % side]
