"""What the served networks should answer, in numpy, from the torch network's raw outputs: the yardstick of parity. Shares no code with the wrappers."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from serving.background import area_fraction
from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, Normalization
from serving.probabilities import add_background, dequantize, labels_from_levels, quantize, upsample

Floats = npt.NDArray[np.float32]
Outputs = dict[str, npt.NDArray[Any]]


def normalize(tiles: npt.NDArray[np.uint8], normalization: Normalization) -> Floats:
    """uint8 (n, H, W, 3) → normalized (n, 3, H, W)."""
    scaled = tiles.astype(np.float64) / 255
    normalized = (scaled - np.array(normalization.mean)) / np.array(normalization.std)
    return np.ascontiguousarray(normalized.transpose(0, 3, 1, 2), dtype=np.float32)


def run_network(network: nn.Module, tiles: npt.NDArray[np.uint8], normalization: Normalization) -> list[Floats]:
    """The torch network's outputs on the tiles, each tile alone, so that no neighbor can have a say."""
    rows = []
    with torch.inference_mode():
        for tile in tiles:
            answer = network(torch.from_numpy(normalize(tile[None], normalization)))
            rows.append(answer if isinstance(answer, tuple) else (answer,))
    return [np.concatenate([output.numpy() for output in outputs]) for outputs in zip(*rows, strict=True)]


def segment_outputs(logits: Floats, cell_px: int, has_background: bool = True) -> Outputs:
    """Logits (n, K, h, w) → PROBABILITIES (n, C + 1, h, w) and LABELS: K = C + 1, or K = C without background, whose channel 0 is then all zero."""
    exponent = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
    levels = quantize(probabilities if has_background else np.pad(probabilities, ((0, 0), (1, 0), (0, 0), (0, 0))))
    labels = np.stack([labels_from_levels(tile, cell_px) for tile in levels])
    return {LABELS: labels, PROBABILITIES: levels}


def cam_outputs(class_maps: Floats, logits: Floats, cell_px: int) -> Outputs:
    """Class maps A (n, C, h, w) and logits (n, C) → LABELS, CAM and SCORES (thesis eq. 4.3–4.5; METHODS "PSCL")."""
    positive = np.maximum(class_maps, 0)
    peak = peaks(class_maps)[:, :, None, None]
    cam = np.divide(positive, peak, out=np.zeros_like(positive), where=peak > 0)
    labels = np.stack([_gated_labels(upsample(tile, cell_px), logit) for tile, logit in zip(cam, logits, strict=True)])
    scores = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return {LABELS: labels, CAM: cam, SCORES: scores.astype(np.float32)}


def segment_labels(answer: Outputs, background: npt.NDArray[np.uint8], cell_px: int) -> Outputs:
    """The network's PROBABILITIES and the background rule → PROBABILITIES and LABELS (eq. 4.9 on the cell grid)."""
    levels = np.stack(
        [
            add_background(dequantize(tile), area_fraction(mask.astype(bool), cell_px))
            for tile, mask in zip(answer[PROBABILITIES], background, strict=True)
        ]
    )
    return {PROBABILITIES: levels, LABELS: np.stack([labels_from_levels(tile, cell_px) for tile in levels])}


def cam_labels(answer: Outputs, background: npt.NDArray[np.uint8], cell_px: int) -> Outputs:
    """The network's LABELS × (1 − background) (eq. 4.9); CAM and SCORES as they are."""
    return {LABELS: answer[LABELS] * (1 - background), CAM: answer[CAM], SCORES: answer[SCORES]}


def peaks(class_maps: Floats) -> Floats:
    """The largest activation of each map, at least 0: (n, C, h, w) → (n, C)."""
    largest: Floats = np.maximum(class_maps, 0).max(axis=(2, 3))
    return largest


def _gated_labels(cam: Floats, logits: Floats) -> npt.NDArray[np.uint8]:
    """One tile: gated argmax + 1; where nothing answers, the top class. The top class always passes or is kept."""
    top = int(logits.argmax())
    gate = logits > 0
    gate[top] = True
    gated = cam * gate[:, None, None]
    labels: npt.NDArray[np.uint8] = (np.where(gated.max(axis=0) > 0, gated.argmax(axis=0), top) + 1).astype(np.uint8)
    return labels
