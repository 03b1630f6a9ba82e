"""The contrastive losses of unsupervised pre-training (thesis §4.2, eq. 3.1 and 4.1). Knows features, no network and no data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_SHORTEST = 1e-6  # a cell without any activation has no direction: below this length its gradient must not grow without bound


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (thesis eq. 3.1; Chen et al. 2020, eq. 1), cosine similarity: first[i] and second[i] are each other's positives, all others negatives.

    Lᵢ = −log( exp(sᵢⱼ/τ) / Σ_{k ≠ i} exp(sᵢₖ/τ) ), j the other view of i.

    Args:
        first: (N, D), N at least 1; `second` likewise. A pair alone has no negatives: its loss is 0.
        temperature: τ, above 0.

    Returns:
        The mean over all 2N anchors; float32 for features of half precision, whose similarities would be too coarse for τ = 0.1.
    """
    with torch.autocast(first.device.type, enabled=False):
        vectors = torch.cat([first, second])
        if vectors.dtype in (torch.float16, torch.bfloat16):
            vectors = vectors.float()
        vectors = functional.normalize(vectors, dim=1, eps=_SHORTEST)
        similarity = vectors @ vectors.T / temperature
        itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        positive = torch.arange(len(vectors), device=vectors.device).roll(len(first))
        return functional.cross_entropy(similarity.masked_fill(itself, float("-inf")), positive)


def intra_image_loss(features: Tensor, view_features: Tensor, temperature: float, max_cells: int, generator: torch.Generator) -> Tensor:
    """L_intra of eq. 4.1: a cell and the same cell of the image's photometric view are positives, the image's other cells negatives.

    The cost is quadratic in the cells: above `max_cells` a seeded draw of the same cells for both.

    Args:
        features: (B, D, h, w) of the image; `view_features` of a view without any spatial change.
        generator: on the CPU.

    Returns:
        The mean over the images.
    """
    cells = features.shape[2] * features.shape[3]
    chosen = torch.randperm(cells, generator=generator)[:max_cells].to(features.device)
    first, second = (maps.flatten(2).permute(0, 2, 1)[:, chosen] for maps in (features, view_features))  # (B, cells, D)
    losses = [nt_xent(own, view, temperature) for own, view in zip(first, second, strict=True)]
    return torch.stack(losses).mean()


def inter_image_loss(features: Tensor, view_features: Tensor, temperature: float) -> Tensor:
    """L_inter of eq. 4.1: the pooled features of an image and of its spatial view are positives, those of the batch's other images negatives.

    Args:
        features: (B, D, h, w); `view_features` (B, D, h', w') of a flipped and turned view. An image alone has no negatives: 0.
    """
    return nt_xent(features.mean(dim=(2, 3)), view_features.mean(dim=(2, 3)), temperature)
