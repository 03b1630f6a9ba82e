"""Filled polygons against shapely's answer for every pixel center."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from clients.polygon_fill import PolygonFill

WIDTH, HEIGHT = 12, 10
# Sixteenths plus a bit, so that no edge runs through a pixel center: there both answers would be right.
coordinate = st.integers(-60, 260).map(lambda step: step / 16 + 0.01)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=6), st.integers(0, HEIGHT))
def test_a_pixel_is_inside_when_its_center_is(points: list[tuple[float, float]], cut: int) -> None:
    shape = shapely.Polygon(points)
    assume(shape.is_valid and shape.area > 0)
    y, x = np.indices((HEIGHT, WIDTH)) + 0.5
    assume(shapely.distance(shape.boundary, shapely.points(x, y)).min() > 1e-9)
    fill = PolygonFill(shape, WIDTH)
    filled = np.concatenate([fill.strip(0, cut), fill.strip(cut, HEIGHT - cut)])
    np.testing.assert_array_equal(filled, shapely.contains_xy(shape, x, y))


def test_holes_stay_empty_and_parts_are_both_filled() -> None:
    ring = shapely.Polygon([(1, 1), (6, 1), (6, 6), (1, 6)], [[(2, 2), (5, 2), (5, 5), (2, 5)]])
    both = shapely.union_all([ring, shapely.box(8, 0, 30, 3)])
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[1:6, 1:6] = True
    expected[2:5, 2:5] = False
    expected[0:3, 8:] = True
    np.testing.assert_array_equal(PolygonFill(both, WIDTH).strip(0, HEIGHT), expected)
