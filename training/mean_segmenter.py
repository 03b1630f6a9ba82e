"""Several segmenters as one: the log of the mean of their probabilities. Knows no task and no training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .errors import RecipeError


class MeanSegmenter(nn.Module):
    """Normalized (B, 3, H, W) → (B, K, h, w), log( 1/N Σ_n softmax(logits_n) ): its softmax is the mean of the members' probabilities.

    Args:
        networks: segmenters with one grid and one meaning of channel 0.

    Attributes:
        cell_px: input pixels per output cell.
        has_background: channel 0 is the background.

    Raises:
        RecipeError: no network, or networks that differ in grid or background.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        kinds = {(int(network.cell_px), bool(network.has_background)) for network in networks}  # type: ignore[arg-type]
        if len(kinds) != 1:
            raise RecipeError(
                f"mean of segmenters: expected networks with the same (cell_px, has_background), got {sorted(kinds) or 'no network'}: "
                "average networks that were trained with the same options"
            )
        ((self.cell_px, self.has_background),) = kinds
        self.networks = nn.ModuleList(networks)

    def forward(self, images: Tensor) -> Tensor:
        members = torch.stack([network(images).log_softmax(dim=1) for network in self.networks])
        return members.logsumexp(dim=0) - math.log(len(self.networks))
