"""Compare a written mask with its truth. The only module of this folder that reads training's metrics; it never sees a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from clients.omezarr import LabelImage, read_label
from training.metrics import Scores, confusion_matrix, score

from .errors import EvaluationError


@dataclass(frozen=True)
class Evaluation:
    """Scores of one mask under both protocols (METHODS "Metrics")."""

    class_names: tuple[str, ...]
    unmasked: Scores
    masked: Scores


def evaluate_mask(store: Path, truth: Path) -> Evaluation:
    """Compare `S.ome.zarr`'s label with a truth image of the same size.

    Raises:
        EvaluationError: the truth cannot be read or has another size.
        ClientError: the store holds no finished label.
    """
    label = read_label(store)
    return evaluate_labels(label, read_truth(truth, label))


def evaluate_labels(label: LabelImage, truth: npt.NDArray[np.uint8]) -> Evaluation:
    """Scores of labels against truth of the same shape."""
    confusion = confusion_matrix(truth, label.labels, len(label.class_names))
    return Evaluation(label.class_names, score(confusion, "unmasked"), score(confusion, "masked"))


def read_truth(path: Path, label: LabelImage) -> npt.NDArray[np.uint8]:
    """Labels 0…C from a single-channel PNG.

    Raises:
        EvaluationError: unreadable, not single-channel, another size than the label, or an index above C.
    """
    try:
        with Image.open(path) as image:
            truth = np.asarray(image)
    except FileNotFoundError as error:
        raise EvaluationError(f"{path}: expected a truth image, found no file") from error
    except (UnidentifiedImageError, OSError) as error:
        raise EvaluationError(f"{path}: expected a readable truth image: {error}") from error
    if truth.shape != label.labels.shape:
        raise EvaluationError(f"{path}: expected a single-channel image of the mask's shape {label.labels.shape}, got {truth.shape}")
    if truth.max(initial=0) > len(label.class_names):
        raise EvaluationError(f"{path}: expected labels 0…{len(label.class_names)}, got up to {truth.max()}")
    return truth.astype(np.uint8)
