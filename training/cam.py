"""Class activation maps and what they mean as labels (thesis eq. 4.3–4.6, 4.9). Pure functions of tensors; knows no network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORE = -1  # eq. 4.6: a pixel too uncertain to take part


def normalize_cam(class_maps: Tensor) -> Tensor:
    """Eq. 4.3: ReLU(A) / max ReLU(A), per image and class; a map without any activation stays 0.

    Args:
        class_maps: A = Wᵀf without bias, (B, C, h, w).

    Returns:
        (B, C, h, w), 0…1.
    """
    positive = functional.relu(class_maps)
    peak = positive.amax(dim=(2, 3), keepdim=True)
    return positive / torch.where(peak > 0, peak, torch.ones_like(peak))


def gate_by_labels(cam: Tensor, labels: Tensor) -> Tensor:
    """Zero the CAMs of classes the image label says are absent (thesis "Pseudo-Label Generation"). Training only.

    Args:
        cam: (B, C, h, w).
        labels: (B, C), 0 or 1.
    """
    return cam * labels[:, :, None, None].to(cam.dtype)


def gate_by_logits(logits: Tensor, threshold: float = 0.0) -> Tensor:
    """Eq. 4.4 on the logit (METHODS "PSCL"): 1 where the class passes; where none does, the top class alone. (B, C) → (B, C)."""
    passes = logits > threshold
    top = functional.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    return torch.where(passes.any(dim=1, keepdim=True), passes, top)


def labels_from_cam(cam: Tensor, gate: Tensor, logits: Tensor) -> Tensor:
    """Eq. 4.5 and the argmax of eq. 4.9, before the background: (B, C, H, W) → int64 (B, H, W), 1…C.

    Pixels whose gated CAMs are all zero get the passing class with the highest logit (METHODS "PSCL").
    """
    gated = cam * gate[:, :, None, None].to(cam.dtype)
    top = logits.masked_fill(~gate.bool(), float("-inf")).argmax(dim=1)
    labels = torch.where(gated.amax(dim=1) > 0, gated.argmax(dim=1), top[:, None, None])
    return labels + 1


def pseudo_labels(cam: Tensor, background: Tensor | None, threshold: float) -> Tensor:
    """Eq. 4.6 with the background seed as the last class: int64 (B, h, w) of 0…C−1, C = background, or IGNORE.

    Args:
        cam: gated CAMs, (B, C, h, w), 0…1.
        background: area fraction of the seed on the same grid, (B, h, w), or None to leave the class out (table 5.9).
        threshold: τ.
    """
    confidence, labels = cam.max(dim=1)
    if background is not None:
        is_background = background > confidence  # a tie goes to tissue
        confidence = torch.where(is_background, background, confidence)
        labels = torch.where(is_background, torch.full_like(labels, cam.shape[1]), labels)
    return torch.where(confidence > threshold, labels, torch.full_like(labels, IGNORE))
