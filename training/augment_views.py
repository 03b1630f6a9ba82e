"""The two views of pre-training (thesis appendix A.3), each image with its own draw. Knows no network."""

from __future__ import annotations

import torch
from torch import Tensor

from . import torchvision_schemas  # noqa: F401  must precede torchvision

from torchvision.transforms import InterpolationMode, v2  # isort: skip

# Appendix A.3, "Intra-Image": what the picture looks like, never where things are.
PHOTOMETRIC = v2.Compose(
    [
        v2.RandomAdjustSharpness(2, p=0.5),
        v2.RandomAutocontrast(p=0.5),
        v2.RandomEqualize(p=0.5),
        v2.GaussianBlur(3, sigma=(0.1, 2.0)),
        v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
    ]
)
# "Inter-Image": where things are, never what they look like; turned corners show white, as beyond tissue.
SPATIAL = v2.Compose(
    [
        v2.RandomHorizontalFlip(p=0.5),
        v2.RandomVerticalFlip(p=0.5),
        v2.RandomRotation((-90, 90), interpolation=InterpolationMode.BILINEAR, fill=255),
    ]
)


def photometric_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (B, 3, H, W) → another of the same kind whose pixels lie where they were.

    Args:
        generator: on the CPU; the same state gives the same view.
    """
    return _view(PHOTOMETRIC, images, generator)


def spatial_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (B, 3, H, W) → flipped and turned; `generator` as for `photometric_view`."""
    return _view(SPATIAL, images, generator)


def _view(transform: v2.Compose, images: Tensor, generator: torch.Generator) -> Tensor:
    # torchvision draws from torch's global generator on the CPU alone: lend it ours, and put the global one back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.stack([transform(image) for image in images])
