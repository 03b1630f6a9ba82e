"""Image-level scores: accuracy, precision, recall, F1 per class, micro and macro (METHODS "Metrics"). numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PRESENT_ABOVE = 0.5  # of a class's score


@dataclass(frozen=True)
class ClassificationScores:
    """Per-class values in class order; NaN where a ratio has no denominator.

    Attributes:
        exact: share of images whose classes are all right.
        micro_f1: over all decisions; macro_f1: mean over the classes.
    """

    images: int
    accuracy: tuple[float, ...]
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    f1: tuple[float, ...]
    exact: float
    micro_f1: float
    macro_f1: float


def score_classification(truth: npt.NDArray[np.bool_], predicted: npt.NDArray[np.bool_]) -> ClassificationScores:
    """Scores of bool (N, C) against bool (N, C).

    Raises:
        ValueError: other shapes, or no image.
    """
    if truth.shape != predicted.shape or truth.ndim != 2 or not len(truth):
        raise ValueError(f"expected two arrays of one shape (N, C) with N ≥ 1, got {truth.shape} and {predicted.shape}")
    hits = (truth & predicted).sum(axis=0)
    found, there = predicted.sum(axis=0), truth.sum(axis=0)
    f1 = _ratio(2 * hits, found + there)
    return ClassificationScores(
        images=len(truth),
        accuracy=tuple((truth == predicted).mean(axis=0).tolist()),
        precision=tuple(_ratio(hits, found).tolist()),
        recall=tuple(_ratio(hits, there).tolist()),
        f1=tuple(f1.tolist()),
        exact=float((truth == predicted).all(axis=1).mean()),
        micro_f1=float(_ratio(2 * hits.sum(keepdims=True), found.sum(keepdims=True) + there.sum(keepdims=True))[0]),
        macro_f1=float(np.nanmean(f1)) if np.isfinite(f1).any() else float("nan"),
    )


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio
