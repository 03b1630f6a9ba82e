"""How a cost grows: a + b·n through measured points, and how far they are from it. Knows no slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import BenchError


@dataclass(frozen=True)
class LineFit:
    """cost = fixed + each·n.

    Attributes:
        residual: greatest distance of a point from the line, as a share of the point.
    """

    fixed: float
    each: float
    residual: float

    def at(self, count: float) -> float:
        return self.fixed + self.each * count


def fit_line(counts: Sequence[float], costs: Sequence[float]) -> LineFit:
    """Least squares of the *relative* distances: a small slide counts as much as a large one, or `fixed` would be noise of the largest.

    Raises:
        BenchError: fewer than three points, counts that are all alike, or a cost that is not positive.
    """
    if len(counts) != len(costs) or len(counts) < 3 or len(set(counts)) < 2:
        raise BenchError(
            f"line: expected at least three points of different size, got {list(zip(counts, costs, strict=False))}: give more sizes"
        )
    if min(costs) <= 0:
        raise BenchError(f"line: expected positive costs, got {list(costs)}")
    weights = 1 / np.asarray(costs, dtype=np.float64)
    design = np.stack([np.ones(len(counts)), np.asarray(counts, dtype=np.float64)], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(design * weights[:, None], np.ones(len(counts)), rcond=None)
    residual = np.abs((design @ [fixed, each]) * weights - 1).max()
    return LineFit(float(fixed), float(each), float(residual))
