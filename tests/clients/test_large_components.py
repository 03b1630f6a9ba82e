"""Components by runs against components by pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from clients.large_components import keep_large_components
from serving.background import keep_large


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 150),  # more than are looked at at a time
    width=st.integers(1, 60),
    smooth_px=st.sampled_from([0.0, 1.0, 3.0]),
    min_size_px=st.integers(0, 300),
)
def test_the_same_as_by_pixels(seed: int, height: int, width: int, smooth_px: float, min_size_px: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((height, width))
    bright = ndimage.gaussian_filter(noise, smooth_px) > 0
    before = bright.copy()
    assert np.array_equal(keep_large_components(bright, min_size_px), keep_large(bright, min_size_px))
    assert np.array_equal(bright, before)


@pytest.mark.parametrize(("min_size_px", "kept"), [(80, True), (81, False)])
def test_a_component_counts_whole_however_its_runs_hang_together(min_size_px: int, kept: bool) -> None:
    """A comb, whose teeth only its back connects; and a speck that touches it by a corner alone."""
    bright = np.zeros((60, 60), dtype=np.bool_)
    bright[10:19:2, 10:22] = True  # 5 teeth of 12
    bright[10:30, 9] = True  # the back, 20
    bright[9, 22:30] = True  # 8, by a corner
    result = keep_large_components(bright, min_size_px)
    assert result[10:30, 9].all() == kept
    assert not result[9].any()


def test_rows_do_not_hang_together_around_the_edge() -> None:
    bright = np.zeros((40, 64), dtype=np.bool_)
    bright[4, 44:] = True
    bright[5, :20] = True
    assert not keep_large_components(bright, 21).any()
    assert keep_large_components(bright, 20).sum() == 40


def test_a_view_into_a_larger_mask() -> None:
    whole = np.ones((50, 90), dtype=np.bool_)
    whole[20, 30:35] = False
    part = whole[10:40:2, 5:80]
    assert keep_large_components(part, part.size).all() == keep_large(part, part.size).all()
    assert np.array_equal(keep_large_components(~part, 6), np.zeros_like(part))
