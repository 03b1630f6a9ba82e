"""The noise-reduced loss of stage 2 (thesis eq. 4.10–4.11; Kang et al. 2025): a pseudo-label counts by how sure its CAM was."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from .datasets.placement import IGNORE_LABEL


def cam_confidence(cam: Tensor) -> Tensor:
    """Eq. 4.10: each class's share of all gated CAMs at a place; 0 where no CAM answers. (B, C, h, w) → the same, 0…1."""
    total = cam.sum(dim=1, keepdim=True)
    return torch.where(total > 0, cam / torch.where(total > 0, total, torch.ones_like(total)), torch.zeros_like(cam))


def noise_reduced_loss(logits: Tensor, target: Tensor, confidence: Tensor, temperature: float, noise: bool) -> Tensor:
    """Eq. 4.11: −Σᵢ cᵢ(yᵢ log Pᵢ + (1 − yᵢ) log(1 − Pᵢ)) over the C + 1 channels, its mean over the pixels that count; 0 where none does.

    Args:
        logits: (B, C + 1, H, W); half precision is computed in float32.
        target: int64 (B, H, W), 0…C or `IGNORE_LABEL`.
        confidence: (B, C + 1, H, W), 0…1; channel 0 is 1 where the background rule seeded and 0 elsewhere (METHODS).
        temperature: of the softmax P, above 0.
        noise: P is the Gumbel softmax; off for evaluation.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_yes = gumbel_log_softmax(scores, temperature) if noise else (scores / temperature).log_softmax(dim=1)
    counted = target != IGNORE_LABEL
    truth = functional.one_hot(torch.where(counted, target, 0), logits.shape[1]).permute(0, 3, 1, 2).bool()
    terms = -(confidence * torch.where(truth, log_yes, _log_of_the_others(log_yes))).sum(dim=1)
    return (terms * counted).sum() / counted.sum().clamp(min=1)


def gumbel_log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log of the Gumbel softmax (Jang et al. 2017, eq. 2) over dimension 1: softmax((logits + g) / temperature), g = −log(−log u)."""
    waiting = torch.empty_like(logits).exponential_().clamp(min=torch.finfo(logits.dtype).tiny)  # −log u; a 0 would be infinite noise
    return ((logits - waiting.log()) / temperature).log_softmax(dim=1)


def _log_of_the_others(log_probability: Tensor) -> Tensor:
    """log(1 − Pᵢ) as log Σ_{j≠i} Pⱼ: from a lead of 17 on, float32 rounds P to 1 and the gradient of log(1 − P) is no number."""
    channels = range(log_probability.shape[1])
    others = [[other for other in channels if other != channel] for channel in channels]
    return torch.stack([log_probability[:, kept].logsumexp(dim=1) for kept in others], dim=1)
