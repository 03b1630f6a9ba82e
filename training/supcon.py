"""The pseudo-supervised contrastive loss over feature vectors (thesis eq. 4.7, 4.8). Knows vectors and labels, no network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import torchvision_schemas  # noqa: F401  must precede pytorch_metric_learning's optional imports
from .cam import IGNORE

from pytorch_metric_learning.losses import SupConLoss  # isort: skip


class PsclLoss(nn.Module):
    """SupCon with cosine similarity over the kept vectors of the whole batch, the average of the anchors' non-zero terms.

    pytorch-metric-learning's SupConLoss is what the thesis used; its default reducer averages the non-zero terms.

    How vectors are sampled: all cells with a pseudo-label, up to `max_vectors` (the cost is quadratic). Above that `draw_balanced` draws without
    replacement and evenly from the classes: a class that has fewer than its share gives all, and the others share what is left. Which images the
    vectors come from plays no part. The draw comes from a generator of the given seed, on the CPU whatever the device, and does not touch torch's own.

    Under mixed precision the loss is computed in float32: similarities divided by the temperature are too coarse in half precision.
    """

    def __init__(self, temperature: float = 0.1, max_vectors: int = 4096, seed: int = 0) -> None:
        super().__init__()
        self.temperature = temperature
        self.supcon = SupConLoss(temperature=temperature)
        self.max_vectors = max_vectors
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, features: Tensor, labels: Tensor, confidence: Tensor | None = None) -> Tensor:
        """Scalar loss, at least 0; 0 (with a gradient path) where no vector has a positive or none a negative.

        Args:
            features: (B, D, h, w).
            labels: int64 (B, h, w), IGNORE = left out (eq. 4.7).
            confidence: (B, h, w) of each pseudo-label, 0…1: weight of its vector's term (thesis §6.2.2); None = all alike.
        """
        kept = labels != IGNORE
        vectors = features.permute(0, 2, 3, 1)[kept]  # (N, D)
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        classes = labels[kept]
        weights = None if confidence is None else confidence[kept].to(vectors.dtype)
        if len(classes) > self.max_vectors:
            chosen = draw_balanced(classes, self.max_vectors, self.generator)
            vectors, classes = vectors[chosen], classes[chosen]
            weights = None if weights is None else weights[chosen]
        if len(classes) < 2:
            return vectors.sum() * 0
        with torch.autocast(features.device.type, enabled=False):
            loss: Tensor = (
                self.supcon(vectors, classes) if weights is None else weighted_supcon(vectors, classes, weights, self.temperature)
            )
        return loss


def weighted_supcon(vectors: Tensor, classes: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Eq. 4.8 with a weight for each anchor's term: Σ wᵢ·Lᵢ / Σ wᵢ over the anchors whose term is not 0; 0 where there is none.

    Lᵢ = −1/|P(i)| Σ_{p ∈ P(i)} log( exp(sᵢₚ/τ) / Σ_{a ≠ i} exp(sᵢₐ/τ) ), s = cosine similarity.

    With equal weights this is pytorch-metric-learning's SupConLoss, its conventions included: vectors of a single class, which nothing
    is to be set apart from, give 0; a term that is 0, of an anchor already where it should be, does not thin the average.

    Args:
        vectors: (N, D); classes: int64 (N,); weights: (N,), at least 0.
    """
    normal = functional.normalize(vectors, dim=1)
    similarity = normal @ normal.T / temperature
    itself = torch.eye(len(classes), dtype=torch.bool, device=classes.device)
    same = classes[:, None] == classes[None]
    positive = same & ~itself
    log_share = similarity - similarity.masked_fill(itself, float("-inf")).logsumexp(dim=1, keepdim=True)
    counts = positive.sum(dim=1)
    terms = -(log_share * positive).sum(dim=1) / counts.clamp(min=1)
    anchors = weights * ((terms > 0) & ~same.all())
    return (anchors * terms).sum() / anchors.sum().clamp(min=torch.finfo(terms.dtype).tiny)


def draw_balanced(classes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Indices of at most `count` vectors, as equal a number of each class as there are (int64 (n,))."""
    shuffled = torch.randperm(len(classes), generator=generator).to(classes.device)
    permuted = classes[shuffled]
    # Rank of each vector within its class; taking the lowest ranks first fills all classes evenly.
    order = torch.argsort(permuted, stable=True)
    sorted_classes = permuted[order]
    first = torch.searchsorted(sorted_classes, sorted_classes)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(classes), device=classes.device) - first
    return shuffled[torch.argsort(rank, stable=True)[:count]]
