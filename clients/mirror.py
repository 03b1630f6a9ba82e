"""Rectangles that reach over the edge of an image: what lies outside is mirrored context, never black. Knows no image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]


def read_mirrored(read: Callable[[int, int, int, int], Rgb], size: tuple[int, int], x: int, y: int, width: int, height: int) -> Rgb:
    """A rectangle of an image of `size` (width, height), uint8 RGB (height, width, 3).

    Args:
        read: (x0, y0, x1, y1) within the image → its pixels.

    Raises:
        ValueError: the rectangle does not meet the image.
    """
    x0, x1 = max(0, x), min(size[0], x + width)
    y0, y1 = max(0, y), min(size[1], y + height)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"expected a rectangle that meets {size[0]}×{size[1]}, got {width}×{height} at ({x}, {y})")
    inside = read(x0, y0, x1, y1)
    padding = ((y0 - y, y + height - y1), (x0 - x, x + width - x1), (0, 0))
    return inside if not any(map(any, padding)) else np.pad(inside, padding, mode="symmetric")
