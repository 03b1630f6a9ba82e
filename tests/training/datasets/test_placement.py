"""How an image comes onto the tile, in literal pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.datasets.placement import IGNORE_LABEL, Placement, inside, place, scale_labels, scale_rgb, scaled_shape, tile_labels, tile_rgb

GRADIENT = np.arange(12, dtype=np.uint8).reshape(3, 4)


def as_rgb(gray: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    return np.stack([gray] * 3, axis=2)


def test_a_short_image_is_reflected_and_its_padding_ignored() -> None:
    placement = place((3, 4), 5, None)
    assert placement == Placement(0, 0, 3, 4, 5)
    np.testing.assert_array_equal(
        tile_rgb(as_rgb(GRADIENT), placement)[..., 0],
        [[0, 1, 2, 3, 2], [4, 5, 6, 7, 6], [8, 9, 10, 11, 10], [4, 5, 6, 7, 6], [0, 1, 2, 3, 2]],
    )
    np.testing.assert_array_equal(tile_labels(GRADIENT, placement)[2:], [[8, 9, 10, 11, 255], [255] * 5, [255] * 5])
    np.testing.assert_array_equal(inside(placement), tile_labels(GRADIENT, placement) != IGNORE_LABEL)


def test_a_long_image_gives_its_middle() -> None:
    placement = place((3, 4), 2, None)
    np.testing.assert_array_equal(tile_labels(GRADIENT, placement), [[1, 2], [5, 6]])
    assert inside(placement).all()


@given(height=st.integers(1, 9), width=st.integers(1, 9), tile_px=st.integers(1, 9), seed=st.integers(0, 5))
def test_a_cut_is_inside_the_image_and_fills_what_it_can(height: int, width: int, tile_px: int, seed: int) -> None:
    placement = place((height, width), tile_px, np.random.default_rng(seed))
    assert (placement.height, placement.width) == (min(height, tile_px), min(width, tile_px))
    assert 0 <= placement.y_s <= height - placement.height
    assert 0 <= placement.x_s <= width - placement.width
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert tile_rgb(rgb, placement).shape == (tile_px, tile_px, 3)
    shown = rgb[placement.y_s :, placement.x_s :][: placement.height, : placement.width]
    np.testing.assert_array_equal(tile_rgb(rgb, placement)[inside(placement)].reshape(shown.shape), shown)


def test_random_cuts_reach_every_corner() -> None:
    random = np.random.default_rng(0)
    assert {(p.y_s, p.x_s) for p in (place((3, 4), 2, random) for _ in range(200))} == {(y, x) for y in range(2) for x in range(3)}


@pytest.mark.parametrize(("shape", "expected"), [((112, 112), (224, 224)), ((75, 100), (150, 200)), ((1, 1), (2, 2))])
def test_the_scale_makes_a_patch_a_tile(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled_shape(shape, 112, 224) == expected


def test_scaling_shifts_nothing() -> None:
    labels = np.array([[1, 2], [0, 255]], np.uint8)
    np.testing.assert_array_equal(scale_labels(labels, (4, 4)), labels.repeat(2, 0).repeat(2, 1))
    # Bilinear with pixel centers at half a pixel: the doubled ramp lies a quarter of a step around each pixel.
    ramp = np.array([[0, 40, 80]], np.uint8)
    np.testing.assert_array_equal(scale_rgb(as_rgb(ramp), (1, 6))[0, :, 0], [0, 10, 30, 50, 70, 80])
    assert scale_rgb(as_rgb(ramp), (1, 3))[0, :, 0].tolist() == [0, 40, 80]
