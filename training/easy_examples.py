"""Online easy example mining (OEEM, Li et al., MICCAI 2022): pixels whose label the network already agrees with count more. Knows no network."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def easy_example_loss(logits: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Σ wᵢ·lᵢ / N over the N pixels of the batch that count, lᵢ = cross-entropy; 0 where none counts.

    wᵢ = exp(−lᵢ) / mean_j exp(−lⱼ), j over the image's own pixels that count: the softmax of −l over the image, divided by its mean, so that an
    image's weights average 1. They are constants to the gradient. An image whose target holds a single class keeps wᵢ = 1.

    The paper offers four measures of how easy a pixel is (confidence, confidence difference, loss, normalized loss) and takes the last; its
    equation is written here as the published code computes that (xmed-lab/OEEM, `cross_entropy_loss.py`), the paper's text was not at hand.
    The exception for a single class stands in the code alone. Unlike the code, ignored pixels take no part: there their loss of 0 made them the
    easiest of all in the softmax, and the mean ran over them too.

    Args:
        logits: (B, K, H, W); half precision is computed in float32.
        target: int64 (B, H, W), 0…K−1 or `ignore_index`.
    """
    scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = functional.cross_entropy(scores, target, ignore_index=ignore_index, reduction="none")
    counted = target != ignore_index
    weighted = easy_weights(losses.detach(), target, counted) * losses
    return weighted.sum() / counted.sum().clamp(min=1)


def easy_weights(losses: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """The weights of `easy_example_loss`: (B, H, W) each → (B, H, W), 0 where a pixel does not count."""
    ease = (-losses).masked_fill(~counted, float("-inf")).flatten(1)
    share = ease.softmax(dim=1) * counted.flatten(1).sum(dim=1, keepdim=True)
    highest = target.masked_fill(~counted, -1).flatten(1).amax(dim=1)
    lowest = target.masked_fill(~counted, torch.iinfo(target.dtype).max).flatten(1).amin(dim=1)
    is_mixed = (highest > lowest)[:, None]
    # An image without a pixel that counts has no softmax: its weights are 0 by `counted`.
    weights = torch.where(is_mixed, share, torch.ones_like(share)).view_as(losses)
    return torch.where(counted, weights, torch.zeros_like(weights))
