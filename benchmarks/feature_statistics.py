"""What a classifier's features and CAMs look like inside each class (thesis figures 5.1–5.4). Imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from training.cam import normalize_cam
from training.checkpoint import Checkpoint
from training.encoder import normalize

from .errors import EvaluationError
from .evaluate_images import TruthImage
from .predict import to_label_scale, to_model_scale

BINS = 20
MAX_VECTORS = 1000  # of each class: similarities are quadratic
_PURE = 0.9  # share of a cell that one class must cover for the cell to count as that class's

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class FeatureStatistics:
    """Histograms over cells that lie in one class by truth; densities over `BINS` equal bins.

    Attributes:
        activation: (C, BINS): a class's CAM, 0…1, on its own cells.
        intra: (C, BINS): cosine similarity of features within a class, −1…1.
        inter: (C, BINS): of a class's features with those of all others.
        intra_mean, inter_mean: (C,), NaN where a class has fewer than two cells.
    """

    class_names: tuple[str, ...]
    activation: Floats
    intra: Floats
    inter: Floats
    intra_mean: Floats
    inter_mean: Floats


def collect_statistics(checkpoint: Checkpoint, images: Iterable[TruthImage], image_mpp: float, seed: int = 0) -> FeatureStatistics:
    """Run stage 1's network over every whole tile of the images.

    Raises:
        EvaluationError: the checkpoint has no classification network, or no image is as large as a tile.
    """
    network = checkpoint.cam_network
    if network is None:
        raise EvaluationError(f"checkpoint of method {checkpoint.method!r}: expected a classification network, it has none")
    task, classes = checkpoint.task, len(checkpoint.task.classes)
    vectors: list[list[Floats]] = [[] for _ in range(classes)]
    activations: list[list[Floats]] = [[] for _ in range(classes)]
    network.eval()
    for image in images:
        tiles, truths = _cut(image, image_mpp, task.mpp, task.tile_px)
        if not len(tiles):
            continue
        with torch.inference_mode():
            pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2)
            features = network.features(normalize(pixels, task.normalization.mean, task.normalization.std))
            class_maps, _ = network.classify(features)
            cam = normalize_cam(class_maps).numpy()
        cells = features.permute(0, 2, 3, 1).numpy()
        for index in range(classes):
            pure = _pure_cells(truths == index + 1, checkpoint.cam_cell_px)
            vectors[index].append(cells[pure])
            activations[index].append(cam[:, index][pure])
    if not any(len(part) for parts in vectors for part in parts):
        raise EvaluationError(f"expected images of at least {task.tile_px} px, the model's tile, that hold a class; got none")
    return _summarize(task.class_names, [_join(parts) for parts in vectors], [_join(parts) for parts in activations], seed)


def _cut(image: TruthImage, image_mpp: float, mpp: float, tile_px: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Whole tiles side by side and their truths."""
    rgb, truth = to_model_scale(image.rgb, image_mpp, mpp), to_label_scale(image.truth, image_mpp, mpp)
    rows, columns = (side // tile_px for side in truth.shape)

    def tiles(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        whole = pixels[: rows * tile_px, : columns * tile_px]
        blocks = whole.reshape(rows, tile_px, columns, tile_px, *pixels.shape[2:]).swapaxes(1, 2)
        return np.ascontiguousarray(blocks.reshape(rows * columns, tile_px, tile_px, *pixels.shape[2:]))

    return tiles(rgb), tiles(truth)


def _pure_cells(mask: npt.NDArray[np.bool_], cell_px: int) -> npt.NDArray[np.bool_]:
    count, height, width = mask.shape
    cells = mask.reshape(count, height // cell_px, cell_px, width // cell_px, cell_px)
    pure: npt.NDArray[np.bool_] = cells.mean(axis=(2, 4)) >= _PURE
    return pure


def _join(parts: list[Floats]) -> Floats:
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def _summarize(names: tuple[str, ...], vectors: list[Floats], activations: list[Floats], seed: int) -> FeatureStatistics:
    random = np.random.default_rng(seed)
    drawn = [functional.normalize(torch.from_numpy(random.permutation(own)[:MAX_VECTORS]), dim=1).numpy() for own in vectors]
    intra, inter = [], []
    for index, own in enumerate(drawn):
        others = _join([other for position, other in enumerate(drawn) if position != index and len(other)])
        above = np.triu_indices(len(own), 1)
        intra.append((own @ own.T)[above] if len(own) > 1 else np.zeros(0, np.float32))
        inter.append((own @ others.T).ravel() if len(own) and len(others) else np.zeros(0, np.float32))
    return FeatureStatistics(
        names,
        np.stack([_histogram(values, 0, 1) for values in activations]),
        np.stack([_histogram(values, -1, 1) for values in intra]),
        np.stack([_histogram(values, -1, 1) for values in inter]),
        np.array([_mean(values) for values in intra], np.float32),
        np.array([_mean(values) for values in inter], np.float32),
    )


def _histogram(values: Floats, low: float, high: float) -> Floats:
    counts, _ = np.histogram(values, bins=BINS, range=(low, high))
    density: Floats = (counts / max(1, counts.sum()) * BINS / (high - low)).astype(np.float32)
    return density


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")
