"""The paired bootstrap: known differences, pairing that helps, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from training.bootstrap import paired_difference
from training.metrics import score


def miou(confusion: np.ndarray) -> float:
    return score(confusion, "masked").miou


def confusions(random: np.random.Generator, error: float, hardness: np.ndarray) -> np.ndarray:
    """(2 seeds, images, 3, 3) with a share of wrong pixels that differs between images."""
    matrices = np.zeros((2, len(hardness), 3, 3), np.int64)
    for seed in range(2):
        for image, hard in enumerate(hardness):
            wrong = int(1000 * min(0.9, error * hard))
            matrices[seed, image, 1:, 1:] = [[1000 - wrong, wrong], [wrong, 1000 - wrong]]
    return matrices + random.integers(0, 5, matrices.shape)


def test_a_small_difference_on_unequal_images_is_found_because_it_is_paired() -> None:
    random = np.random.default_rng(0)
    hardness = random.uniform(0.2, 3, 30)
    worse, better = confusions(random, 0.12, hardness), confusions(random, 0.10, hardness)
    difference = paired_difference(worse, better, miou)
    assert 0 < difference.low < difference.value < difference.high
    assert difference.value == pytest.approx(miou(better.sum(axis=(0, 1))) - miou(worse.sum(axis=(0, 1))))


def test_no_difference_has_an_interval_around_zero() -> None:
    random = np.random.default_rng(1)
    hardness = random.uniform(0.2, 3, 20)
    difference = paired_difference(confusions(random, 0.1, hardness), confusions(random, 0.1, hardness), miou)
    assert difference.low < 0 < difference.high
    same = confusions(random, 0.1, hardness)
    assert paired_difference(same, same, miou) == paired_difference(same, same, miou, seed=3)  # all zeros, whatever is drawn


def test_refuses_what_is_not_paired() -> None:
    with pytest.raises(ValueError, match="same seeds and images"):
        paired_difference(np.zeros((1, 3, 2, 2), np.int64), np.zeros((1, 4, 2, 2), np.int64), miou)
