"""Label images as the channels of a network that has a background channel or none. Knows labels, no network."""

from __future__ import annotations

import torch
from torch import Tensor

from .datasets.placement import IGNORE_LABEL


def channel_targets(target: Tensor, has_background: bool) -> Tensor:
    """Which output channel is the truth at each pixel.

    Args:
        target: int64 of any shape, 0…C or `IGNORE_LABEL`; 0 = background.
        has_background: the network has C + 1 channels and channel 0 is the background; without, C channels, class c is channel c − 1 and
            background teaches nothing.

    Returns:
        int64 of the same shape: a channel's index or `IGNORE_LABEL`.
    """
    if has_background:
        return target
    return torch.where((target == 0) | (target == IGNORE_LABEL), IGNORE_LABEL, target - 1)
