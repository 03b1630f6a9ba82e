"""Outlines against the pixels that they surround."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clients.outline import Outline, TooManyCornersError, find_corners, find_outlines

CLASSES = 2
labels_of_any_kind = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, CLASSES))


def trace(labels: np.ndarray, cuts: tuple[int, ...] = ()) -> list[list[Outline]]:
    strips = [strip for strip in np.split(labels, cuts) if len(strip)]
    return [list(find_outlines(corners)) for corners in find_corners(strips, CLASSES, 10_000)]


def polygon(outline: Outline) -> shapely.Polygon:
    return shapely.Polygon(outline.exterior, outline.holes)


def centers_inside(polygons: list[shapely.Polygon], shape: tuple[int, int]) -> np.ndarray:
    """Which pixel centers are inside, by shapely."""
    y, x = np.indices(shape) + 0.5
    inside: np.ndarray = shapely.contains_xy(shapely.MultiPolygon(polygons), x, y)
    return inside


@given(labels_of_any_kind, st.integers(0, 9))
def test_polygons_are_valid_and_hold_exactly_the_pixels(labels: np.ndarray, cut: int) -> None:
    for value, outlines in enumerate(trace(labels, (min(cut, len(labels)),)), start=1):
        polygons = [polygon(outline) for outline in outlines]
        assert all(part.is_valid for part in polygons)
        assert sum(part.area for part in polygons) == sum(outline.area_px for outline in outlines) == (labels == value).sum()
        np.testing.assert_array_equal(centers_inside(polygons, labels.shape), labels == value)


def test_the_same_of_an_image_of_many_rows() -> None:
    labels = np.random.default_rng(3).integers(0, 3, (35, 6), dtype=np.uint8).repeat(4, axis=0)
    for value, corners in enumerate(find_corners([labels], 2, labels.size * 4), start=1):
        polygons = [polygon(outline) for outline in find_outlines(corners)]
        np.testing.assert_array_equal(centers_inside(polygons, labels.shape), labels == value)


@given(labels_of_any_kind)
def test_every_corner_turns(labels: np.ndarray) -> None:
    for outline in (outline for outlines in trace(labels) for outline in outlines):
        for ring in (outline.exterior, *outline.holes):
            steps = np.diff(np.concatenate([ring, ring[:2]]), axis=0)
            assert ((steps != 0).sum(axis=1) == 1).all()  # along the pixel edges
            assert ((steps[:-1] * steps[1:]).sum(axis=1) == 0).all()


def test_a_ring_with_an_island_in_it() -> None:
    labels = np.zeros((7, 8), np.uint8)
    labels[1:6, 1:6] = 1
    labels[2:5, 2:5] = 0
    labels[3, 3] = 1
    ring, island = trace(labels)[0]
    assert ring.exterior.tolist() == [[1, 1], [6, 1], [6, 6], [1, 6]]
    assert [sorted(hole.tolist()) for hole in ring.holes] == [[[2, 2], [2, 5], [5, 2], [5, 5]]]
    assert ring.area_px == 16
    assert island.exterior.tolist() == [[3, 3], [4, 3], [4, 4], [3, 4]]


def test_pixels_that_touch_at_a_corner_are_two_components() -> None:
    assert [outline.area_px for outline in trace(np.eye(2, dtype=np.uint8))[0]] == [1, 1]


def test_a_ring_that_touches_itself_becomes_one_with_a_hole() -> None:
    labels = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    (outline,) = trace(labels)[0]
    assert outline.area_px == 7
    assert len(outline.holes) == 1
    assert polygon(outline).is_valid


def test_says_when_there_are_too_many() -> None:
    with pytest.raises(TooManyCornersError, match=r"at most 10 corners.*first 4 rows"):
        find_corners([np.eye(4, dtype=np.uint8)], CLASSES, 10)


def test_refuses_labels_beyond_the_classes() -> None:
    with pytest.raises(ValueError, match=r"0…2, got 3"):
        find_corners([np.full((2, 2), 3, np.uint8)], CLASSES, 10)
