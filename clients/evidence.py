"""What a tile's answer says per cell, as numbers that can be averaged over tiles. Knows no slide and no server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import CAM, PROBABILITIES, SCORES, Kind
from serving.probabilities import dequantize

Place = tuple[int, int]  # row and column of a grid of tiles
# Which classes count on each tile, from where the tiles lie and their SCORES (n, C): bool (n, C), at least one true in each row.
Gate = Callable[[Sequence[Place], npt.NDArray[np.float32]], npt.NDArray[np.bool_]]

_NO_ACTIVATION = np.float32(1e-6)  # below every level of a CAM that answers


def score_gate(threshold: float) -> Gate:
    """The classes whose score exceeds the threshold; where none does, the best alone (thesis eq. 4.4, METHODS "PSCL").

    Args:
        threshold: a score; ½ is the logit 0. Below 0 all classes pass.
    """

    def gate(places: Sequence[Place], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        passes = scores > threshold
        best = scores == scores.max(axis=1, keepdims=True)
        chosen: npt.NDArray[np.bool_] = np.where(passes.any(axis=1, keepdims=True), passes, best)
        return chosen

    return gate


DEFAULT_GATE = score_gate(0.5)


def tile_evidence(kind: Kind, outputs: dict[str, npt.NDArray[Any]], places: Sequence[Place], gate: Gate) -> npt.NDArray[np.float32]:
    """Evidence of each tile of a batch, float32 (n, C + 1, h, w), 0…1.

    `segment`: the dequantized PROBABILITIES. `cam`: CAM × SCORES of the classes that `gate` lets through, so that tiles are comparable where
    they overlap; channel 0 is 0, since CAMs know no background.
    """
    if kind == "segment":
        return dequantize(outputs[PROBABILITIES])
    return cam_evidence(outputs[CAM], outputs[SCORES], gate(places, outputs[SCORES]))


def cam_evidence(cam: npt.NDArray[np.float32], scores: npt.NDArray[np.float32], passes: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """CAM (n, C, h, w), SCORES (n, C) and which of the classes count, (n, C) → (n, C + 1, h, w)."""
    evidence = cam * (scores * passes)[:, :, None, None]
    # METHODS "PSCL": a pixel on which no passing class is active gets the one with the highest score.
    passing = np.where(passes, scores, -1)
    best = passing == passing.max(axis=1, keepdims=True)
    silent = (evidence.max(axis=1, keepdims=True) == 0) & best[:, :, None, None]
    evidence = np.where(silent, _NO_ACTIVATION, evidence)
    none = np.zeros_like(evidence[:, :1])
    combined: npt.NDArray[np.float32] = np.concatenate([none, evidence], axis=1).astype(np.float32)
    return combined
