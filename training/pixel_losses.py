"""Segmentation losses other than cross-entropy that PistoSeg's preliminary and precise networks are trained with. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Each channel against all others (PistoSeg: "Binary cross entropy is employed as the segmentation loss"), mean over counted pixels and channels.

    Args:
        logits: (B, K, H, W).
        target: int64 (B, H, W), a channel's index or `ignore_index`.

    Returns:
        A scalar; 0 where no pixel counts.
    """
    counted, truth = _one_hot(target, logits.shape[1], ignore_index)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    terms = functional.binary_cross_entropy_with_logits(wide, truth.to(wide.dtype), reduction="none") * counted
    return terms.sum() / (counted.sum() * logits.shape[1]).clamp(min=1)


def dice_loss(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """1 − Dice of each channel's softmax probability with its pixels of the whole batch (Milletari et al. 2016, eq. 1 in its plain form), mean over
    the channels that the batch's truth holds: the published code's loss of PistoSeg's preliminary network.

    Args:
        logits: (B, K, H, W).
        target: int64 (B, H, W), a channel's index or `ignore_index`.

    Returns:
        A scalar, 0…1; 0 where no pixel counts.
    """
    counted, truth = _one_hot(target, logits.shape[1], ignore_index)
    wide = torch.promote_types(logits.dtype, torch.float32)
    probabilities = logits.to(wide).softmax(dim=1) * counted
    truth = truth.to(wide)
    shared, total = (probabilities * truth).sum(dim=(0, 2, 3)), (probabilities + truth).sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    dice = 2 * shared / total.clamp(min=torch.finfo(wide).tiny)
    return ((1 - dice) * present).sum() / present.sum().clamp(min=1)


def _one_hot(target: Tensor, channels: int, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Which pixels count, bool (B, 1, H, W), and their truth, bool (B, K, H, W), False where they do not."""
    counted = (target != ignore_index)[:, None]
    truth = target[:, None] == torch.arange(channels, device=target.device).view(1, -1, 1, 1)
    return counted, truth & counted
