"""What a tile's answer says per cell, as numbers that can be averaged over tiles. Knows no slide and no server."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import CAM, PROBABILITIES, SCORES, Kind
from serving.probabilities import dequantize

_NO_ACTIVATION = np.float32(1e-6)  # below every level of a CAM that answers


def tile_evidence(kind: Kind, outputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Evidence of each tile of a batch, float32 (n, C + 1, h, w), 0…1.

    `segment`: the dequantized PROBABILITIES. `cam`: CAM × SCORES of the classes that pass (eq. 4.4: score > ½, else the
    best alone), so that tiles are comparable where they overlap; channel 0 is 0, since CAMs know no background.
    """
    if kind == "segment":
        return dequantize(outputs[PROBABILITIES])
    return cam_evidence(outputs[CAM], outputs[SCORES])


def cam_evidence(cam: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """CAM (n, C, h, w) and SCORES (n, C) → (n, C + 1, h, w)."""
    best = scores == scores.max(axis=1, keepdims=True)
    passes = np.where((scores > 0.5).any(axis=1, keepdims=True), scores > 0.5, best)
    evidence = cam * (scores * passes)[:, :, None, None]
    # METHODS "PSCL": a pixel on which no passing class is active gets the one with the highest score.
    silent = (evidence.max(axis=1, keepdims=True) == 0) & best[:, :, None, None]
    evidence = np.where(silent, _NO_ACTIVATION, evidence)
    none = np.zeros_like(evidence[:, :1])
    combined: npt.NDArray[np.float32] = np.concatenate([none, evidence], axis=1).astype(np.float32)
    return combined
