"""Quantization, background and upsampling: literal values, exactness, and agreement with torch."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from serving.probabilities import add_background, dequantize, labels_from_levels, quantize, upsample

grids = hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)))


def test_every_level_survives_dequantizing() -> None:
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(quantize(dequantize(levels)), levels)


def test_quantize_rounds_half_to_even_and_clips() -> None:
    values = np.array([-0.1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 1.2], np.float32)
    assert quantize(values).tolist() == [0, 0, 2, 2, 255]


@given(grids, st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_upsampling_is_torch_s_bit_for_bit(levels: npt.NDArray[np.uint8], cell_px: int) -> None:
    cells = levels.astype(np.float32)
    by_torch = torch.nn.functional.interpolate(torch.from_numpy(cells)[None], scale_factor=float(cell_px), mode="bilinear")[0].numpy()
    np.testing.assert_array_equal(upsample(cells, cell_px), by_torch)


def test_upsampling_by_hand() -> None:
    np.testing.assert_array_equal(upsample(np.array([[0.0, 8.0]], np.float32), 4)[0], [0, 0, 1, 3, 5, 7, 8, 8])


@given(grids)
def test_labels_are_the_argmax_with_ties_to_the_lowest(levels: npt.NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(labels_from_levels(levels, 1), levels.argmax(axis=0))


def test_background_takes_its_share_of_every_class() -> None:
    probabilities = np.array([0.2, 0.5, 0.3], np.float32).reshape(3, 1, 1)
    combined = add_background(probabilities, np.array([[0.25]], np.float32))
    assert combined.ravel().tolist() == [102, 96, 57]  # 255 × 0.4, 0.375, 0.225
    assert probabilities.ravel().tolist() == pytest.approx([0.2, 0.5, 0.3])  # the input is not changed


@given(st.floats(0, 1), st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_a_distribution_stays_one(share: float, weights: list[float]) -> None:
    probabilities = (np.array(weights, np.float32) + 0.01).reshape(-1, 1, 1)
    probabilities /= probabilities.sum()
    combined = add_background(probabilities, np.array([[share]], np.float32))
    assert abs(int(combined.sum()) - 255) <= len(weights) / 2 + 0.5  # each rounds by half a level at most


def test_levels_and_shares_of_a_cell_combine_exactly() -> None:
    """Against whole numbers, for every level and every count of background pixels of a cell of 4 × 4."""
    level, count = np.meshgrid(np.arange(256), np.arange(17))
    two = dequantize(np.stack([level, 255 - level]).astype(np.uint8))
    combined = add_background(two, (count / 16).astype(np.float32))
    expected = [
        [
            [round(Fraction(int(level[i, j]) * (16 - i) + 255 * i, 16)), round(Fraction((255 - int(level[i, j])) * (16 - i), 16))]
            for j in range(256)
        ]
        for i in range(17)
    ]
    np.testing.assert_array_equal(combined.transpose(1, 2, 0), expected)  # Python rounds halves of fractions to even, too
