"""Percentiles that a sample can support, with their intervals. Knows no request.

A percentile is the nearest rank: the least value that p % of the sample do not exceed. It is told only where the sample bounds it from both
sides: its distribution-free 95 % interval (order statistics, binomial) lies within the sample. p99 takes 368 values, p99.9 takes 3,688.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import binom

LEVELS = (50.0, 90.0, 95.0, 99.0, 99.9)
_CONFIDENCE = 0.95


def least_samples(level: float) -> int:
    """How many values support a percentile.

    Args:
        level: 50 ≤ level < 100.
    """
    tail = (1 - _CONFIDENCE) / 2
    return math.ceil(math.log(tail) / math.log(level / 100))


def percentile(values: Sequence[float], level: float) -> float | None:
    """The nearest rank; None where the values are too few for this level."""
    if len(values) < least_samples(level):
        return None
    rank = math.ceil(round(level * len(values) / 100, 6))  # rounded: 99.9 % of 10,000 is 9,990, not a little more
    return float(np.sort(np.asarray(values, dtype=np.float64))[rank - 1])


def interval(values: Sequence[float], level: float) -> tuple[float, float] | None:
    """What the percentile of the whole distribution lies between, 95 % sure, if the values are independent; None where they are too few."""
    count = len(values)
    if count < least_samples(level):
        return None
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    low, high = binom.interval(_CONFIDENCE, count, level / 100)
    return float(ordered[max(int(low) - 1, 0)]), float(ordered[min(int(high), count - 1)])


def summarize_ms(values_s: Sequence[float]) -> dict[str, Any]:
    """Milliseconds by level (`p50` … `p99.9`, None where the sample does not support one), mean, greatest, and the interval of p99."""
    values_ms = [1000 * value_s for value_s in values_s]
    found: dict[str, Any] = {f"p{level:g}": _rounded(percentile(values_ms, level)) for level in LEVELS}
    bounds_ms = interval(values_ms, 99)
    found["p99_interval"] = None if bounds_ms is None else [round(bound_ms, 3) for bound_ms in bounds_ms]
    found["mean"] = _rounded(float(np.mean(values_ms)) if values_ms else None)
    found["greatest"] = _rounded(max(values_ms, default=None))
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
