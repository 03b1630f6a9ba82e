"""The area filter against a naive sum, and that a pixel's value does not depend on the window it is computed in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.area_filter import area_taps, reduce_axis


def naive(source: np.ndarray, start: int, stop: int, scale: float) -> np.ndarray:
    means = []
    for output in range(start, stop):
        low, high = output * scale, min((output + 1) * scale, len(source))
        shares = [max(0.0, min(high, pixel + 1) - max(low, pixel)) for pixel in range(len(source))]
        means.append(sum(share * value for share, value in zip(shares, source, strict=True)) / (high - low))
    return np.array(means)


@given(scale=st.floats(0.3, 9), size=st.integers(1, 60), data=st.data())
def test_equals_the_naive_mean_over_the_area(scale: float, size: int, data: st.DataObject) -> None:
    outputs = max(1, int(np.ceil(size / scale - 1e-6)))
    start = data.draw(st.integers(0, outputs - 1))
    stop = data.draw(st.integers(start + 1, outputs))
    source = np.random.default_rng(size).uniform(0, 255, size).astype(np.float32)
    taps = area_taps(start, stop, scale, size)
    reduced = reduce_axis(source[taps.first : taps.first + taps.length], taps, axis=0)
    np.testing.assert_allclose(reduced, naive(source, start, stop, scale), rtol=1e-4, atol=1e-3)


@given(scale=st.floats(1, 7), data=st.data())
def test_a_band_equals_the_whole_bit_for_bit(scale: float, data: st.DataObject) -> None:
    size = 97
    outputs = int(np.ceil(size / scale - 1e-6))
    start = data.draw(st.integers(0, outputs - 1))
    stop = data.draw(st.integers(start + 1, outputs))
    source = np.random.default_rng(0).integers(0, 256, (size, 5)).astype(np.float32)
    whole = reduce_axis(source, area_taps(0, outputs, scale, size), axis=0)
    taps = area_taps(start, stop, scale, size)
    band = reduce_axis(source[taps.first : taps.first + taps.length], taps, axis=0)
    np.testing.assert_array_equal(band, whole[start:stop])


def test_whole_factors_are_plain_means() -> None:
    taps = area_taps(0, 3, 2.0, 6)
    np.testing.assert_array_equal(reduce_axis(np.array([0, 2, 10, 20, 7, 7], np.float32), taps, axis=0), [1, 15, 7])


def test_what_lies_beyond_a_level_that_was_rounded_down_repeats_its_last_pixel() -> None:
    taps = area_taps(2, 4, 2.0, 6)  # output 3 would cover pixels 6 and 7
    assert reduce_axis(np.array([5, 9], np.float32), taps, axis=0).tolist() == pytest.approx([7, 9])
