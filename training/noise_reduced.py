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
    """Eq. 4.11: −Σᵢ cᵢ(yᵢ log Pᵢ + (1 − yᵢ) log(1 − Pᵢ)) over the C + 1 channels, its mean over the pixels that count.

    Args:
        logits: (B, C + 1, H, W).
        target: int64 (B, H, W), 0…C or `IGNORE_LABEL`.
        confidence: (B, C + 1, H, W); channel 0 is 1 where the background rule seeded and 0 elsewhere (METHODS).
        temperature: of the Gumbel softmax P; with `noise` off P is the softmax.
    """
    probability = functional.gumbel_softmax(logits, tau=temperature, dim=1) if noise else logits.softmax(dim=1)
    # A softmax can reach 0 and 1 in floating point: the logarithm is kept finite, as torch's binary cross-entropy keeps it.
    log_yes = probability.log().clamp(min=-100)
    log_no = torch.log1p(-probability).clamp(min=-100)
    counted = target != IGNORE_LABEL
    truth = functional.one_hot(torch.where(counted, target, 0), logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    terms = -(confidence * (truth * log_yes + (1 - truth) * log_no)).sum(dim=1)
    return (terms * counted).sum() / counted.sum().clamp(min=1)
