"""Tiles to load a server with: generated tissue, since the cost of background rule and decoder depends on the picture. Knows no server."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import simplejpeg

from training.slides import draw_slide_labels
from training.tissue.render import render

JPEG_QUALITY = 90
_PICTURE_PX = 1024
_SEED = 1
_CANDIDATES = 4
_GLASS = 200  # gray levels from here on are glass, as most tasks' background rules say


def make_tiles(count: int, tile_px: int) -> npt.NDArray[np.uint8]:
    """Cut out of one picture at seeded places: uint8 RGB (count, tile_px, tile_px, 3); the same for the same arguments.

    Of four times as many places those with the most tissue: glass is not sent to a server.
    """
    picture = _picture(max(_PICTURE_PX, tile_px))
    places = np.random.default_rng(_SEED).integers(0, len(picture) - tile_px + 1, (_CANDIDATES * count, 2))
    is_tissue = picture.mean(axis=2) < _GLASS
    tissue = np.array([is_tissue[top : top + tile_px, left : left + tile_px].mean() for top, left in places])
    best = np.sort(np.argsort(-tissue, kind="stable")[:count])  # in the order of the draw
    return np.stack([picture[top : top + tile_px, left : left + tile_px] for top, left in places[best]])


@cache
def _picture(side_px: int) -> npt.NDArray[np.uint8]:
    """Seconds to make, and each load asks for it."""
    return render(draw_slide_labels(np.random.default_rng([_SEED, 11]), (side_px, side_px)), _SEED)


def encode_tile(tile: npt.NDArray[np.uint8]) -> bytes:
    """As slides hold it: JPEG, 4:2:0."""
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(tile), JPEG_QUALITY, "RGB", "420"))
