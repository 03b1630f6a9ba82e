"""Criss-cross attention (ARML eq. 1–2): each position attends to its row and its column. Knows feature maps, no class and no loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .errors import RecipeError

# Largest similarity of eq. 1 that is told from a larger one: half precision ends at 65,504, and softmax of an infinity is no number.
_MAX_SIMILARITY = 60_000.0


class CrissCross(nn.Module):
    """f′ = f + Σ_k A_k Ψ_k over the H + W − 1 positions of a position's row and column, itself among them once (ARML eq. 1–2).

    Eq. 2's sum is written from k = 0 to H + W − 1, one term more than there are positions: read as over all of them. Eq. 1 has no 1/√C′.
    A position alone in its row and column (1×1) attends to itself.

    Args:
        channels: C of f and of the values V.
        key_channels: C′ of queries Q and keys K, at least 1; the paper's is less than C.
        gamma: scale the sum by a learned number that starts at 0, as the published code does; the paper has none.

    Raises:
        RecipeError: channels below 1.
    """

    def __init__(self, channels: int, key_channels: int, gamma: bool = False) -> None:
        super().__init__()
        if channels < 1 or key_channels < 1:
            raise RecipeError(f"criss-cross attention: expected at least 1 channel and 1 key channel, got {channels} and {key_channels}")
        self.query = nn.Conv2d(channels, key_channels, 1)
        # A bias of K would add one and the same number to all similarities of a position: softmax drops it, and it could not be learned.
        self.key = nn.Conv2d(channels, key_channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1)) if gamma else None

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        height = features.shape[2]
        attention = self._attention(features)
        column, row = attention[..., :height], attention[..., height:]
        value: Tensor = self.value(features).permute(0, 2, 3, 1)  # (B, H, W, C)
        context = (column.transpose(1, 2) @ value.transpose(1, 2)).transpose(1, 2) + row @ value
        context = context.permute(0, 3, 1, 2)
        return features + (context if self.gamma is None else self.gamma * context)

    def _attention(self, features: Tensor) -> Tensor:
        """A, (B, H, W, H + W), sums to 1 over the last axis: H positions of the column, 0 at the own one, then W of the row."""
        height = features.shape[2]
        query: Tensor = self.query(features).permute(0, 2, 3, 1)  # (B, H, W, C′)
        key: Tensor = self.key(features)
        row = query @ key.permute(0, 2, 1, 3)  # (B, H, W, C′) · (B, H, C′, W)
        column = (query.transpose(1, 2) @ key.permute(0, 3, 1, 2)).transpose(1, 2)  # (B, W, H, C′) · (B, W, C′, H)
        similarity = torch.cat([column, row], dim=3).clamp(-_MAX_SIMILARITY, _MAX_SIMILARITY)
        # The own position is in the row already. −∞ weighs exactly 0 in any precision, and the row keeps one that is finite.
        doubled = torch.eye(height, height + features.shape[3], dtype=torch.bool, device=features.device)[:, None]
        return similarity.masked_fill(doubled, float("-inf")).softmax(dim=3).to(features.dtype)
