"""Attention among the cells of a feature map, and class maps carried along it (PistoSeg, Fang et al. 2023, eq. 2–5). Knows no loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .errors import RecipeError


class AttentionProjection(nn.Module):
    """Features F (B, C, h, w) → attention A (B, hw, hw), A = Softmax(QᵀK), Q = W_Q F, K = W_K F (eq. 2, 3).

    The softmax runs over i of A_ij, so that column j of M↓A is a convex combination of M↓'s columns (METHODS; a projected map stays within
    the range of the map, and a constant map is left as it is). No bias. Scores and softmax are computed in float32 at least: inner products over
    192 channels, unscaled, leave half precision's range.

    Args:
        channels: C.
        key_channels: C′ of the paper, 192.
        scaled: divide QᵀK by √C′, as transformers do; the paper does not.
    """

    def __init__(self, channels: int, key_channels: int = 192, scaled: bool = False) -> None:
        super().__init__()
        if channels < 1 or key_channels < 1:
            raise RecipeError(f"attention projection: expected at least one channel and key channel, got {channels} and {key_channels}")
        self.query = nn.Conv2d(channels, key_channels, 1, bias=False)
        self.key = nn.Conv2d(channels, key_channels, 1, bias=False)
        self.factor = key_channels**-0.5 if scaled else 1.0

    def forward(self, features: Tensor, counted: Tensor | None = None) -> Tensor:
        """(B, C, h, w) → (B, hw, hw), each column of which sums to 1.

        Args:
            counted: bool (B, h, w), False for cells from which nothing is taken (padding); an image without any counted cell takes from all alike.
        """
        query, key = (self._wide(layer(features)) for layer in (self.query, self.key))
        with torch.autocast(features.device.type, enabled=False):
            scores = torch.einsum("bci,bcj->bij", query * self.factor, key)
            if counted is not None:
                scores = scores.masked_fill(~counted.flatten(1)[:, :, None], torch.finfo(scores.dtype).min)
            return scores.softmax(dim=1)

    @staticmethod
    def _wide(cells: Tensor) -> Tensor:
        return cells.flatten(2).to(torch.promote_types(cells.dtype, torch.float32))


def project(maps: Tensor, attention: Tensor, grid: tuple[int, int]) -> Tensor:
    """Eq. 4, 5: M̂ = M↓ A. (B, L, h′, w′) and (B, hw, hw) → (B, L, h, w), in the attention's precision.

    Args:
        grid: (h, w) of the features that the attention is of; maps are brought to it by `to_grid`.

    Raises:
        RecipeError: the attention is not of this grid.
    """
    cells = grid[0] * grid[1]
    if attention.shape[1:] != (cells, cells):
        raise RecipeError(f"projection: expected attention among {grid[0]}×{grid[1]} cells, got one of {tuple(attention.shape[1:])}")
    flat = to_grid(maps, grid).flatten(2).to(attention.dtype)
    with torch.autocast(maps.device.type, enabled=False):
        return torch.bmm(flat, attention).view(*flat.shape[:2], *grid)


def to_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """The arrow of eq. 4, 5: area average down to the grid; maps that are coarser than it are enlarged bilinearly. (B, L, h′, w′) → (B, L, h, w)."""
    height, width = maps.shape[2:]
    if (height, width) == grid:
        return maps
    if height >= grid[0] and width >= grid[1]:
        return functional.adaptive_avg_pool2d(maps, grid)
    return functional.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
