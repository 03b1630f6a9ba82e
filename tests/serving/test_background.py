"""The background rule against the library call that defines it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage
from skimage.morphology import remove_small_objects

from serving.background import area_fraction, background_mask, keep_large, to_gray


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24))), st.integers(0, 30))
def test_drops_what_remove_small_objects_drops(bright: npt.NDArray[np.bool_], min_size_px: int) -> None:
    # The library's `max_size` is the largest that goes; its former `min_size` the smallest that stays.
    expected = remove_small_objects(bright, max_size=max(0, min_size_px - 1), connectivity=1)
    np.testing.assert_array_equal(keep_large(bright, min_size_px), expected)


def test_gray_is_rec_601() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(rgb).convert("L"), dtype=np.float32)
    np.testing.assert_allclose(to_gray(rgb), pillow, atol=1)


def test_the_threshold_is_exclusive_and_diagonals_do_not_connect() -> None:
    gray = np.full((5, 5), 200, np.uint8)
    gray[0, 0] = gray[1, 1] = gray[1, 2] = 201
    rgb = np.repeat(gray[..., None], 3, axis=2)
    mask = background_mask(rgb, 200, 2)
    assert mask.nonzero()[0].tolist() == [1, 1]
    assert mask.nonzero()[1].tolist() == [1, 2]


def test_area_fraction_counts_the_pixels_of_each_cell() -> None:
    mask = np.zeros((4, 8), np.bool_)
    mask[:2, :4] = True
    mask[0, 4] = True
    np.testing.assert_array_equal(area_fraction(mask, 4), np.array([[0.5, 1 / 16]], np.float32))
    with pytest.raises(ValueError, match="multiples of 4"):
        area_fraction(mask[:3], 4)


def test_a_halo_of_min_size_rows_makes_a_window_exact() -> None:
    """What the slide client relies on."""
    random = np.random.default_rng(3)
    bright = ndimage.gaussian_filter(random.standard_normal((200, 80)), 1.5) > 0.1
    whole = keep_large(bright, 25)
    for top in range(0, 200, 20):
        low, high = max(0, top - 25), min(200, top + 20 + 25)
        np.testing.assert_array_equal(keep_large(bright[low:high], 25)[top - low : top - low + 20], whole[top : top + 20])
    assert (whole != bright).any()
