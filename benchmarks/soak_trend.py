"""Whether memory grows, from looks at it that go up and down. Knows no process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_WINDOWS = 12


@dataclass(frozen=True)
class Trend:
    """A straight line through the lowest values of equal windows: what is on the way at a look only adds to what is kept.

    Attributes:
        start, end: of the line.
        per_unit: its slope.
        uncertainty: two standard errors of the slope.
    """

    start: float
    end: float
    per_unit: float
    uncertainty: float

    def is_at_least(self, per_unit: float) -> bool:
        """Beyond the uncertainty."""
        return self.per_unit - self.uncertainty >= per_unit


def trend(places: Sequence[float], values: Sequence[float]) -> Trend | None:
    """Of values at places (hours, or calls) in ascending order; None for fewer than two in each window, or all at one place."""
    if len(values) < 2 * _WINDOWS or places[0] == places[-1]:
        return None
    parts = np.array_split(np.asarray(values, float), _WINDOWS)
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    lowest = [int(start + part.argmin()) for start, part in zip(starts, parts, strict=True)]
    xs, ys = np.asarray(places, float)[lowest], np.asarray(values, float)[lowest]
    (slope, zero), covariance = np.polyfit(xs, ys, 1, cov=True)
    start, end = (round(float(zero + slope * place), 1) for place in (places[0], places[-1]))
    return Trend(start, end, round(float(slope), 3), round(2 * float(np.sqrt(covariance[0, 0])), 3))
