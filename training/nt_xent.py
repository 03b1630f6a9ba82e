"""The contrastive losses of unsupervised pre-training (thesis §4.2, eq. 4.1). Knows features, no network and no data."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (Chen et al. 2020, eq. 1; thesis eq. 3.1.2), cosine similarity: first[i] and second[i] are each other's positives, all others negatives.

    Args:
        first: (N, D); `second` likewise. A pair alone has no negatives: its loss is 0.

    Returns:
        The mean over all 2N anchors.
    """
    vectors = functional.normalize(torch.cat([first, second]), dim=1)
    similarity = vectors @ vectors.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(vectors), dtype=torch.bool, device=vectors.device), float("-inf"))
    positive = torch.arange(len(vectors), device=vectors.device).roll(len(first))
    return functional.cross_entropy(similarity, positive)


def intra_image_loss(features: Tensor, view_features: Tensor, temperature: float, max_cells: int, generator: torch.Generator) -> Tensor:
    """Within each image: a cell and the same cell of its photometric view are positives, the image's other cells negatives.

    The cost is quadratic in the cells: above `max_cells` a seeded draw of the same cells for both.

    Args:
        features: (B, D, h, w) of the image; `view_features` of a view without any spatial change.

    Returns:
        The mean over the images.
    """
    cells = features.shape[2] * features.shape[3]
    chosen = torch.randperm(cells, generator=generator)[:max_cells].to(features.device)
    first, second = (maps.flatten(2).permute(0, 2, 1)[:, chosen] for maps in (features, view_features))  # (B, cells, D)
    losses = [nt_xent(own, view, temperature) for own, view in zip(first, second, strict=True)]
    return torch.stack(losses).mean()


def inter_image_loss(features: Tensor, view_features: Tensor, temperature: float) -> Tensor:
    """Between images: the pooled features of an image and of its spatial view are positives, those of the batch's other images negatives.

    Args:
        features: (B, D, h, w); `view_features` of a flipped and turned view.
    """
    return nt_xent(features.mean(dim=(2, 3)), view_features.mean(dim=(2, 3)), temperature)
