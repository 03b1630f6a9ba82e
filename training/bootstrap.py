"""Paired bootstrap of a difference between two methods, over images × seeds (METHODS "Metrics"). numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Confusions = npt.NDArray[np.int64]  # (seeds, images, C + 1, C + 1)
DRAWS = 2000


@dataclass(frozen=True)
class Difference:
    """Second method minus first.

    Attributes:
        low: end of the 95 % interval of the difference; so is `high`.
    """

    value: float
    low: float
    high: float


def paired_difference(
    first: Confusions, second: Confusions, metric: Callable[[npt.NDArray[np.int64]], float], seed: int = 0, draws: int = DRAWS
) -> Difference:
    """Draw images and seeds with replacement, the same for both methods, and pool each draw into one confusion matrix.

    Args:
        first: int64 (seeds, images, C + 1, C + 1); `second` of the same images and seeds.
        metric: of one pooled matrix, e.g. masked mIoU.

    Raises:
        ValueError: the two are not paired.
    """
    if first.shape != second.shape or first.ndim != 4 or 0 in first.shape:
        raise ValueError(f"expected confusions of the same seeds and images, got {first.shape} and {second.shape}")
    random = np.random.default_rng(seed)
    seeds, images = first.shape[:2]
    values = []
    for _ in range(draws):
        chosen = np.ix_(random.integers(seeds, size=seeds), random.integers(images, size=images))
        values.append(metric(second[chosen].sum(axis=(0, 1))) - metric(first[chosen].sum(axis=(0, 1))))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Difference(metric(second.sum(axis=(0, 1))) - metric(first.sum(axis=(0, 1))), float(low), float(high))
