"""Outlines of the pixels of a class: closed rings along pixel edges, joined to polygons with holes. Knows no file and no scale.

A rectilinear outline is its corners. On a line between two rows of pixels the corners, from left to right, pair up to horizontal edges; on
a line between columns to vertical ones. Rings are walked from edge to edge and taken apart where they touch themselves at a corner.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

_UPPER_LEFT, _UPPER_RIGHT, _LOWER_LEFT, _LOWER_RIGHT = (
    np.uint8(bit) for bit in (1, 2, 4, 8)
)  # which of the four pixels around a point belong to the class
_FALLING = _UPPER_LEFT | _LOWER_RIGHT  # two pixels that touch at the point alone
_RISING = _UPPER_RIGHT | _LOWER_LEFT
_IS_CORNER = np.array([int(code).bit_count() % 2 == 1 or code in (_FALLING, _RISING) for code in range(16)])
_CACHED_ROWS = 32  # at a time: they stay in the processor's cache

Points = npt.NDArray[np.int64]  # (n, 2): x, y of pixel corners; pixel i covers [i, i + 1)


class TooManyCornersError(ValueError):
    """The outlines would not fit into the memory set aside for them."""


@dataclass(frozen=True)
class Corners:
    """Where the outline of a class turns, top to bottom, left to right; a point at which two pixels touch is there twice.

    Attributes:
        x: int32 (n,), of the grid line between pixels x − 1 and x.
        y: int32 (n,).
        code: uint8 (n,), which of the four pixels around it belong to the class.
    """

    x: npt.NDArray[np.int32]
    y: npt.NDArray[np.int32]
    code: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Outline:
    """One component of a class (pixels joined through their sides).

    Attributes:
        exterior: corners of its outer ring, not closed.
        holes: rings of the same kind.
        area_px: its pixels.
    """

    exterior: Points
    holes: tuple[Points, ...]
    area_px: int


def find_corners(strips: Iterable[npt.NDArray[np.uint8]], classes: int, limit: int) -> list[Corners]:
    """Corners of the classes 1…`classes` of an image that comes in strips of whole rows; holds a strip and the corners.

    Raises:
        TooManyCornersError: more than `limit` in all.
    """
    parts: list[list[Corners]] = [[] for _ in range(classes)]
    above: npt.NDArray[np.uint8] | None = None
    top, count = 0, 0
    for strip in strips:
        if above is None:
            above = np.zeros_like(strip[:1])
        window = np.concatenate([above, strip])
        count += _collect(parts, window, top)
        if count > limit:
            raise TooManyCornersError(f"expected at most {limit:,} corners, found more in the first {top + len(strip)} rows")
        above, top = strip[-1:].copy(), top + len(strip)
    if above is not None:
        _collect(parts, np.concatenate([above, np.zeros_like(above)]), top)
    return [_join(part) for part in parts]


def find_outlines(corners: Corners) -> Iterator[Outline]:
    """Every component of a class, in the order of the uppermost left corner of their rings.

    Its polygon is valid: a ring visits no point twice, holes lie inside, and rings touch at points alone.
    """
    rings = [part for ring, meets_itself in _walk(corners) for part in (_split(ring) if meets_itself else (ring,))]
    areas = [_signed_area(ring) for ring in rings]
    exteriors = [(ring, area) for ring, area in zip(rings, areas, strict=True) if area > 0]
    holes = [(ring, area) for ring, area in zip(rings, areas, strict=True) if area < 0]
    owners = _owners([ring for ring, _ in exteriors], [ring for ring, _ in holes])
    inside: list[list[tuple[Points, int]]] = [[] for _ in exteriors]
    for hole, owner in zip(holes, owners, strict=True):
        inside[owner].append(hole)
    for (exterior, area_px), its_holes in zip(exteriors, inside, strict=True):
        yield Outline(exterior, tuple(ring for ring, _ in its_holes), area_px + sum(area for _, area in its_holes))


def _collect(parts: list[list[Corners]], window: npt.NDArray[np.uint8], top: int) -> int:
    """Corners on the grid lines between the window's rows; the first of these lies at `top`."""
    return sum(
        _collect_some(parts, window[first : first + _CACHED_ROWS + 1], top + first) for first in range(0, len(window) - 1, _CACHED_ROWS)
    )


def _collect_some(parts: list[list[Corners]], window: npt.NDArray[np.uint8], top: int) -> int:
    framed = np.pad(window, ((0, 0), (1, 1)))
    around = framed[:-1, :-1], framed[:-1, 1:], framed[1:, :-1], framed[1:, 1:]
    is_mixed = around[0] != around[1]
    for other in around[2:]:
        is_mixed |= around[0] != other
    y, x = np.nonzero(is_mixed)  # few: a corner of whichever class is among them
    pixels = [pixel[y, x] for pixel in around]
    count = 0
    for value in np.flatnonzero(np.bincount(np.concatenate(pixels), minlength=1)[1:]) + 1:
        if value > len(parts):
            raise ValueError(f"expected labels 0…{len(parts)}, got {value}")
        codes = np.zeros(len(y), dtype=np.uint8)
        for pixel, bit in zip(pixels, (_UPPER_LEFT, _UPPER_RIGHT, _LOWER_LEFT, _LOWER_RIGHT), strict=True):
            codes |= (pixel == value) * bit
        found = np.flatnonzero(_IS_CORNER[codes])
        times = np.where((codes[found] == _FALLING) | (codes[found] == _RISING), 2, 1)
        at = found.repeat(times)
        parts[value - 1].append(Corners(x[at].astype(np.int32), (y[at] + top).astype(np.int32), codes[at]))
        count += len(at)
    return count


def _join(parts: list[Corners]) -> Corners:
    if not parts:
        return Corners(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.uint8))
    return Corners(
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        np.concatenate([part.code for part in parts]),
    )


def _walk(corners: Corners) -> Iterator[tuple[Points, bool]]:
    """Closed rings with the class to the right of the way (y down: outer rings run clockwise), and whether one may visit a point twice."""
    x, y = corners.x, corners.y
    is_twin = (corners.code == _FALLING) | (corners.code == _RISING)
    across = _partners(np.arange(len(x)))  # they come row by row
    along = _partners(np.lexsort((_upper_first(corners), y, x)))
    next_x, next_y = memoryview(across.data), memoryview(along.data)
    seen = bytearray(len(x))
    for start in range(len(x)):
        if seen[start]:
            continue
        ring, at = [], start
        while not seen[at]:
            beside = next_x[at]
            seen[at] = seen[beside] = 1
            ring += [at, beside]
            at = next_y[beside]
        points = np.stack([x[ring], y[ring]], axis=1).astype(np.int64)
        # The start is the uppermost left corner, the way goes right: the class is below, to the right, unless the ring is a hole's.
        yield (points if corners.code[start] & _LOWER_RIGHT else points[::-1]), bool(is_twin[ring].any())


def _partners(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The corners at either end of an edge, of corners in the order of their lines."""
    partner = np.empty_like(order)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    return partner


def _upper_first(corners: Corners) -> npt.NDArray[np.int64]:
    """Of two corners at one point, which has the edge upward: the left one (its edge goes left) where the pixels fall, the right one where they rise.

    So each of the two belongs to one pixel, and pixels that touch at the point alone are not joined.
    """
    rank = np.zeros(len(corners.x), dtype=np.int64)
    twins = np.flatnonzero((corners.code == _FALLING) | (corners.code == _RISING))
    left, right = twins[::2], twins[1::2]
    falling = corners.code[left] == _FALLING
    rank[left], rank[right] = np.where(falling, 0, 1), np.where(falling, 1, 0)
    return rank


def _split(ring: Points) -> Iterator[Points]:
    """Rings that visit no point twice; together they are the same line."""
    keys = ring[:, 0] << 32 | ring[:, 1]
    way: list[int] = []
    position: dict[int, int] = {}
    for index, key in enumerate(keys.tolist()):
        first = position.get(key)
        if first is not None:
            yield ring[way[first:]]
            for dropped in way[first + 1 :]:
                del position[int(keys[dropped])]
            del way[first:]
        position[key] = len(way)
        way.append(index)
    yield ring[way]


def _signed_area(ring: Points) -> int:
    """Pixels inside, negative for a hole."""
    x, y = ring[:, 0], ring[:, 1]
    twice = np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:]) + x[-1] * y[0] - y[-1] * x[0]
    return int(twice) // 2


def _owners(exteriors: list[Points], holes: list[Points]) -> list[int]:
    """Which exterior each hole lies in: the smallest that contains the pixel above the hole's uppermost left corner, which is of the class."""
    if not holes:
        return []
    corners = np.array([ring[np.lexsort((ring[:, 0], ring[:, 1]))[0]] for ring in holes])
    tree = shapely.STRtree(shapely.points(corners + np.array([0.5, -0.5])))
    filled = np.array([shapely.Polygon(ring) for ring in exteriors])
    outer, inner = tree.query(filled, predicate="contains")
    order = np.argsort(-shapely.area(filled)[outer], kind="stable")  # the smallest last: it overwrites
    owners = np.full(len(holes), -1)
    owners[inner[order]] = outer[order]
    return [int(owner) for owner in owners]
