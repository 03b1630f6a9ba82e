"""Naive loops written from the papers' equations, to hold the vectorized code against."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def cam(class_maps: Array) -> Array:
    """Thesis eq. 4.3, one image: (C, h, w)."""
    result = np.zeros_like(class_maps)
    for index, class_map in enumerate(class_maps):
        peak = max(max(value, 0.0) for value in class_map.ravel())
        if peak > 0:
            for y in range(class_map.shape[0]):
                for x in range(class_map.shape[1]):
                    result[index, y, x] = max(class_map[y, x], 0.0) / peak
    return result


def pseudo_labels(cam_of_image: Array, background: Array, threshold: float) -> npt.NDArray[np.int64]:
    """Thesis eq. 4.6 over the CAMs with the background concatenated as the last class; the first of equals wins."""
    stacked = np.concatenate([cam_of_image, background[None]])
    labels = np.full(stacked.shape[1:], -1, dtype=np.int64)
    for y in range(stacked.shape[1]):
        for x in range(stacked.shape[2]):
            values = list(stacked[:, y, x])
            if max(values) > threshold:
                labels[y, x] = values.index(max(values))
    return labels


def supcon(vectors: Array, labels: list[int], temperature: float) -> float:
    """Thesis eq. 4.8 with cosine similarity, averaged over the anchors that have a positive."""
    unit = [vector / math.sqrt(sum(v * v for v in vector)) for vector in vectors]
    terms = []
    for i, label in enumerate(labels):
        positives = [p for p in range(len(labels)) if p != i and labels[p] == label]
        if not positives:
            continue
        denominator = sum(math.exp(float(unit[i] @ unit[a]) / temperature) for a in range(len(labels)) if a != i)
        logs = [math.log(math.exp(float(unit[i] @ unit[p]) / temperature) / denominator) for p in positives]
        terms.append(-sum(logs) / len(positives))
    return sum(terms) / len(terms) if terms else 0.0


def multilabel_soft_margin(logits: Array, labels: Array) -> float:
    """Thesis §4.3.1, averaged over the batch."""
    total = 0.0
    for x_row, y_row in zip(logits, labels, strict=True):
        row = 0.0
        for x, y in zip(x_row, y_row, strict=True):
            row += y * math.log(1 / (1 + math.exp(-x))) + (1 - y) * math.log(math.exp(-x) / (1 + math.exp(-x)))
        total += -row / len(x_row)
    return total / len(logits)


def confusion(truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8], num_classes: int) -> npt.NDArray[np.int64]:
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
        matrix[t, p] += 1
    return matrix
