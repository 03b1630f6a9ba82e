"""MLPS (Han et al., Medical Image Analysis 2022): progressive dropout attention, and the loss over pseudo-masks of several layers. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .datasets.placement import IGNORE_LABEL
from .errors import RecipeError

LEVEL_WEIGHTS = (0.6, 0.2, 0.2)  # of the pseudo-masks, deepest layer first


@dataclass(frozen=True)
class DropoutAttentionOptions:
    """How far the most discriminative places are cut away, epoch by epoch.

    Attributes:
        decay: factor of the threshold γ per epoch, from 1 in the first epoch on.
        floor: least γ.
        start_epoch: index of the first epoch that drops; before it features pass as they are.
        kind: attention = what the published code computes: features × the mean of the cut CAMs; mask = features as they are, 0 where any
            class's CAM was cut.
    """

    decay: float = 0.98
    floor: float = 0.65
    start_epoch: int = 3
    kind: Literal["attention", "mask"] = "attention"

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1 or not 0 < self.floor <= 1:
            raise RecipeError(f"dropout attention: expected decay and floor above 0 and up to 1, got {self.decay} and {self.floor}")


class ProgressiveDropout(nn.Module):
    """Keeps a classifier from resting on the most discriminative places: those whose CAM exceeds γ times its maximum are dropped in training.

    M_c = ReLU(w_cᵀf); M̃_c = M_c where M_c ≤ γ·max M_c, else 0; f' = f · 1/C Σ_c M̃_c. At epoch e γ = max(floor, decayᵉ): all as in the published
    code (ChuHan89/WSSS-Tissue), the paper's text was not at hand. The code lets γ end just below the floor, here it stops at it.
    In evaluation, as before `start_epoch`, features pass as they are. The gradient runs through the CAMs, as it does there.
    """

    def __init__(self, options: DropoutAttentionOptions | None = None) -> None:
        super().__init__()
        self.options = options or DropoutAttentionOptions()
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Call at the start of each epoch, counted from 0."""
        self.epoch = epoch

    @property
    def gamma(self) -> float:
        """γ of this epoch."""
        return max(self.options.floor, self.options.decay**self.epoch)

    def forward(self, features: Tensor, class_weights: Tensor) -> Tensor:
        """Features with their strongest places dropped.

        Args:
            features: (B, D, h, w).
            class_weights: of the classifier's head, (C, D) or (C, D, 1, 1).
        """
        if not self.training or self.epoch < self.options.start_epoch:
            return features
        cams = functional.relu(functional.conv2d(features, class_weights.view(*class_weights.shape[:2], 1, 1)))
        cut = cams > self.gamma * cams.amax(dim=(2, 3), keepdim=True)
        if self.options.kind == "mask":
            return features.masked_fill(cut.any(dim=1, keepdim=True), 0)
        return features * cams.masked_fill(cut, 0).mean(dim=1, keepdim=True)


def multi_level_loss(logits: Tensor, targets: Tensor, weights: Sequence[float] = LEVEL_WEIGHTS) -> Tensor:
    """Σ_n λ_n · cross-entropy(logits, target_n), each its mean over the pixels that count; a level where none counts adds 0.

    The published code divides once more by the size of the batch; this does not.

    Args:
        logits: (B, K, H, W).
        targets: int64 (B, N, H, W), the pseudo-masks of N layers as channels 0…K−1 or `IGNORE_LABEL`.
        weights: λ; as published those of ResNet-38's bn7, b5_2 and b4_5.

    Raises:
        RecipeError: not one weight per level.
    """
    if targets.ndim != 4 or targets.shape[1] != len(weights):
        raise RecipeError(f"multi-level loss: expected targets of {len(weights)} levels, one per weight, got shape {tuple(targets.shape)}")
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    repeated = scores[:, :, None].expand(-1, -1, len(weights), -1, -1)  # (B, K, N, H, W)
    losses = functional.cross_entropy(repeated, targets, ignore_index=IGNORE_LABEL, reduction="none")
    counted = (targets != IGNORE_LABEL).sum(dim=(0, 2, 3)).clamp(min=1)
    level_losses = losses.sum(dim=(0, 2, 3)) / counted
    return (level_losses * level_losses.new_tensor(list(weights))).sum()
