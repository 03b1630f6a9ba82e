"""A slide's own tiles with tissue, for calibration and for a gate: level 0, whole tiles, spread over the slide. Knows no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clients.slide import Slide, open_slide

T = TypeVar("T")
Tiles = npt.NDArray[np.uint8]  # (n, side, side, 3)
_MIN_TISSUE = 0.5  # of a tile; the rest is glass
_GLASS_GRAY = 220
_LOOKED_AT = 8  # tiles for each that is wanted in a half: many are glass


def cut_halves(path: Path, side_px: int, count: int) -> tuple[Tiles, Tiles]:
    """Every second tile with tissue, and the others between them: what is calibrated on is not what is judged on.

    Args:
        side_px: of a tile, in pixels of level 0.
        count: at most so many in each half.

    Returns:
        Both uint8 (n, side_px, side_px, 3); n is 0 where the slide has no such tile.

    Raises:
        SlideError: the slide cannot be read.
    """
    with open_slide(path) as slide:
        tissue = [tile for tile in _read_spread(slide, side_px, _LOOKED_AT * count) if is_tissue(tile)]
    return _stacked(tissue[::2][:count], side_px), _stacked(tissue[1::2][:count], side_px)


def is_tissue(tile: npt.NDArray[np.uint8]) -> bool:
    """Whether at least half of the tile, uint8 (side, side, 3), is darker than glass."""
    return bool((tile.mean(axis=2) < _GLASS_GRAY).mean() >= _MIN_TISSUE)


def _read_spread(slide: Slide, side_px: int, most: int) -> Iterator[npt.NDArray[np.uint8]]:
    corners = [
        (x_l0, y_l0)
        for y_l0 in range(0, slide.height_l0 - side_px + 1, side_px)
        for x_l0 in range(0, slide.width_l0 - side_px + 1, side_px)
    ]
    for x_l0, y_l0 in spread(corners, most):
        yield slide.read(0, x_l0, y_l0, side_px, side_px)


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many, evenly from the first to the last."""
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[index] for index in chosen.tolist()]


def _stacked(tiles: Sequence[npt.NDArray[np.uint8]], side_px: int) -> Tiles:
    return np.stack(tiles) if tiles else np.empty((0, side_px, side_px, 3), np.uint8)
