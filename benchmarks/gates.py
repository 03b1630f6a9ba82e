"""Which classes count on a tile of a CAM model, as the ablations vary it (thesis eq. 4.4, tables 5.16 and 5.17). Knows no model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from clients.evidence import Gate, Place, score_gate
from clients.tiling import TileGrid
from training.patches import image_labels

from .errors import EvaluationError

ALL_PASS = -1.0  # below every score


@dataclass(frozen=True)
class GateOptions:
    """The gate of an evaluation."""

    kind: Literal["logit", "probability", "none", "oracle"] = "logit"
    """logit, probability: classes whose score exceeds the threshold; none: all; oracle: those that truth has on the tile, which no user could
    know. Oracle figures say what is lost by image-level errors; they are no result of a method."""
    threshold: float = 0.0
    """Of the logit (tables 5.16 and 5.17: 0, 0.25, 0.5, 0.75), or of the probability (the thesis's text: 0.8)."""

    def __post_init__(self) -> None:
        if self.kind == "probability" and not 0 < self.threshold < 1:
            raise EvaluationError(f"gate.threshold: expected a probability between 0 and 1, got {self.threshold}: the thesis's is 0.8")

    @property
    def score(self) -> float:
        """The threshold on SCORES, which are probabilities."""
        if self.kind == "none":
            return ALL_PASS
        return self.threshold if self.kind == "probability" else 1 / (1 + math.exp(-self.threshold))


DEFAULT_GATE_OPTIONS = GateOptions()


def make_gate(options: GateOptions, truth_m: npt.NDArray[np.uint8], grid: TileGrid) -> Gate:
    """The gate for one image; its truth is looked at by the oracle alone.

    Args:
        truth_m: labels 0…C or 255 (ignored) at the model's scale.
    """
    by_score = score_gate(options.score if options.kind != "oracle" else 0.5)
    if options.kind != "oracle":
        return by_score
    tile_px = grid.tile_c * grid.cell_px

    def gate(places: Sequence[Place], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        passes = by_score(places, scores)
        for index, place in enumerate(places):
            y_m, x_m = (grid.origin_c(number) * grid.cell_px for number in place)
            tile = truth_m[max(0, y_m) : max(0, y_m + tile_px), max(0, x_m) : max(0, x_m + tile_px)]
            present = image_labels(tile, scores.shape[1])
            if any(present):  # a tile of background alone has no label to go by
                passes[index] = np.array(present, dtype=bool)
        return passes

    return gate
