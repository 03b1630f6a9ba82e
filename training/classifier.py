"""Stage 1's network: encoder, 1×1 head, global average pooling (thesis §4.3.1). Gives class maps and logits; knows no loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .encoder import Encoder
from .relocalization import Relocalization

# Feature channels per key channel of the relocalization's attention: 4096 to 512, as ARML's published code has it; the paper says less than C.
_CHANNELS_PER_KEY = 8


@dataclass(frozen=True)
class ClassifierConfig:
    """What the network is; saved with its weights.

    Attributes:
        encoder: timm name.
        image_px: side of the images.
        stages: feature stages the head reads. One is the thesis; several are brought to the finest grid and concatenated (§6.2.1).
        final_norm: the deepest stage comes after the encoder's final norm, where a transformer has one (METHODS "PSCL"). False, what networks
            saved before there was the choice are, takes features as timm gives them.
        relocalize: ARML's activation relocalization (eq. 1–3) before the head.
    """

    encoder: str
    stages: tuple[int, ...]
    num_classes: int
    image_px: int = 224
    final_norm: bool = False
    relocalize: bool = False


class Classifier(nn.Module):
    """(B, 3, H, W) normalized → class maps A = Wᵀf (B, C, h, w), without bias, and logits (B, C)."""

    def __init__(self, config: ClassifierConfig, pretrained: bool = False, weights: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, config.stages, pretrained, weights, config.image_px, config.final_norm)
        channels = sum(self.encoder.channels)
        self.head = nn.Conv2d(channels, config.num_classes, 1)
        # One stage's scale must not drown another's where several are fused.
        self.norms = nn.ModuleList(nn.GroupNorm(1, c) if len(config.stages) > 1 else nn.Identity() for c in self.encoder.channels)
        # After the head: what is drawn for it does not change how the head starts.
        self.relocalization = Relocalization(channels, max(1, channels // _CHANNELS_PER_KEY)) if config.relocalize else nn.Identity()

    @property
    def cell_px(self) -> int:
        """Input pixels per CAM cell."""
        return self.encoder.strides[0]

    def features(self, images: Tensor) -> Tensor:
        """The feature map f that CAMs and the contrastive loss read: (B, D, h, w).

        Relocalized, where the network is, in training and in inference; ARML's published inference network has no relocalization.
        """
        stages = [norm(feature) for norm, feature in zip(self.norms, self.encoder(images), strict=True)]
        size = stages[0].shape[2:]
        finest, *coarser = stages
        aligned = [functional.interpolate(stage, size=size, mode="bilinear", align_corners=False) for stage in coarser]
        relocalized: Tensor = self.relocalization(torch.cat([finest, *aligned], dim=1) if aligned else finest)
        return relocalized

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features → (class maps without bias, logits with it)."""
        class_maps = functional.conv2d(features, self.head.weight)
        bias = self.head.bias
        assert bias is not None  # nn.Conv2d's default
        return class_maps, class_maps.mean(dim=(2, 3)) + bias

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.classify(self.features(images))
