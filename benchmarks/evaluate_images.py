"""A model against annotated images: one confusion matrix per image, pooled; image-level scores on the images' own tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from clients.pipeline import TileModel
from serving.contract import SCORES, TissueTask
from training.classification import PRESENT_ABOVE, ClassificationScores, score_classification
from training.datasets.placement import IGNORE_LABEL
from training.metrics import Protocol, Scores, confusion_matrix, score
from training.patches import image_labels

from .gates import DEFAULT_GATE_OPTIONS, GateOptions, make_gate
from .predict import OVERLAP, predict_labels, predict_tiles, to_label_scale

Rgb = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TruthImage:
    """An image with its truth.

    Attributes:
        rgb: uint8 (H, W, 3).
        truth: uint8 (H, W), 0…C.
    """

    name: str
    rgb: Rgb
    truth: Labels


@dataclass(frozen=True)
class ImageScores:
    """One evaluated image.

    Attributes:
        confusion: int64 (C + 1, C + 1), row = truth.
        labels: the prediction, uint8 (H, W).
    """

    name: str
    confusion: npt.NDArray[np.int64]
    labels: Labels


@dataclass(frozen=True)
class ModelEvaluation:
    """A model's scores over a set of images.

    Attributes:
        classification: of the tiles; None for models without image-level scores.
    """

    task: TissueTask
    images: tuple[ImageScores, ...]
    classification: ClassificationScores | None

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        total: npt.NDArray[np.int64] = np.sum([image.confusion for image in self.images], axis=0)
        return total

    def scores(self, protocol: Protocol) -> Scores:
        return score(self.confusion, protocol)


def evaluate_images(
    images: Iterable[TruthImage],
    model: TileModel,
    image_mpp: float,
    overlap: float = OVERLAP,
    progress: Callable[[str], None] = lambda name: None,
    gate: GateOptions = DEFAULT_GATE_OPTIONS,
) -> ModelEvaluation:
    """Segment every image and compare it with its truth, which the model never sees, nor the gate unless it is the oracle.

    Args:
        image_mpp: micrometers per pixel of the images and truths.
        progress: called with each finished image's name.
    """
    task = model.contract.task
    results, present, found = [], [], []
    for image in images:
        truth_m = to_label_scale(image.truth, image_mpp, task.mpp)
        labels = predict_labels(image.rgb, model, image_mpp, overlap, partial(make_gate, gate, truth_m))
        counted = image.truth != IGNORE_LABEL
        results.append(ImageScores(image.name, confusion_matrix(image.truth[counted], labels[counted], len(task.classes)), labels))
        if model.contract.kind == "cam":
            for truth, scores in _tile_scores(image, model, image_mpp):
                present.append(image_labels(truth, len(task.classes)))
                found.append(scores > PRESENT_ABOVE)
        progress(image.name)
    classification = score_classification(np.array(present, dtype=bool), np.array(found)) if found else None
    return ModelEvaluation(task, tuple(results), classification)


def _tile_scores(image: TruthImage, model: TileModel, image_mpp: float) -> Iterator[tuple[Labels, npt.NDArray[np.float32]]]:
    """Truth and SCORES of every whole tile that lies in the image."""
    truth = to_label_scale(image.truth, image_mpp, model.contract.task.mpp)
    for place, outputs in predict_tiles(image.rgb, model, image_mpp):
        yield truth[place], outputs[SCORES]
