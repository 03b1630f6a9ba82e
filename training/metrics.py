"""Segmentation metrics from one global confusion matrix (METHODS "Metrics"). numpy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Protocol = Literal["masked", "unmasked"]


def confusion_matrix(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], num_classes: int) -> npt.NDArray[np.int64]:
    """Pixel counts, int64 (C + 1, C + 1): row = truth, column = prediction, 0 = background.

    Raises:
        ValueError: other shapes, or a label above C.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"expected truth and prediction of one shape, got {truth.shape} and {predicted.shape}")
    if max(truth.max(initial=0), predicted.max(initial=0)) > num_classes:
        raise ValueError(f"expected labels 0…{num_classes}, got up to {max(truth.max(initial=0), predicted.max(initial=0))}")
    side = num_classes + 1
    flat = truth.astype(np.int64).ravel() * side + predicted.ravel()
    return np.bincount(flat, minlength=side * side).reshape(side, side)


@dataclass(frozen=True)
class Scores:
    """Per-class values in class order; NaN where a class occurs in neither truth nor prediction.

    Attributes:
        protocol: masked = truth-0 pixels dropped; unmasked = background row and column kept. Means are over the C classes in both.
    """

    protocol: Protocol
    iou: tuple[float, ...]
    dice: tuple[float, ...]
    miou: float
    fwiou: float
    accuracy: float


def score(confusion: npt.NDArray[np.int64], protocol: Protocol) -> Scores:
    """Scores of a confusion matrix. IoU = TP/(TP+FP+FN), Dice = 2TP/(2TP+FP+FN)."""
    matrix = confusion.astype(np.float64).copy()
    if protocol == "masked":
        matrix[0] = 0
    true_positive = np.diag(matrix)[1:]
    truth = matrix.sum(axis=1)[1:]
    union = truth + matrix.sum(axis=0)[1:] - true_positive
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = true_positive / union
        dice = 2 * true_positive / (union + true_positive)
        frequency = truth / truth.sum()
        accuracy = np.diag(matrix).sum() / matrix.sum()
    return Scores(
        protocol=protocol,
        iou=tuple(iou.tolist()),
        dice=tuple(dice.tolist()),
        miou=float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan"),
        fwiou=float(np.nansum(iou * frequency)),
        accuracy=float(accuracy),
    )
