"""Stage 2's network: encoder and pixel decoder, K = C + 1 outputs on the cell grid (thesis §4.4). Knows no loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from .encoder import Encoder

DecoderKind = Literal["fpn", "mask2former"]


@dataclass(frozen=True)
class SegmenterConfig:
    """What the network is; saved with its weights.

    Attributes:
        stages: feature stages the decoder fuses, shallow to deep; the shallowest gives the cell grid.
        width: channels of the decoder.
        decoder: fpn, or mask2former (the thesis's), which needs stages of strides 4, 8, 16, 32.
        decoder_layers: of mask2former's deformable encoder.
        image_px: side of the images.
    """

    encoder: str
    stages: tuple[int, ...]
    num_classes: int
    width: int
    decoder: DecoderKind = "fpn"
    decoder_layers: int = 6
    image_px: int = 224


def _make_decoder(config: SegmenterConfig, encoder: Encoder) -> nn.Module:
    if config.decoder == "fpn":
        return FpnDecoder(encoder.channels, config.width)
    from .pixel_decoder import Mask2FormerDecoder  # transformers takes seconds to import, and only this decoder needs it

    return Mask2FormerDecoder(encoder.channels, encoder.strides, config.width, config.decoder_layers)


class FpnDecoder(nn.Module):
    """Feature pyramid network (Lin et al. 2017, §3): lateral 1×1 convolutions, a top-down sum, one 3×3 convolution at the finest grid."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True))

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """Pyramid of shallow to deep → (B, width, h, w) on the shallowest grid."""
        fused = self.laterals[-1](pyramid[-1])
        for lateral, feature in zip(reversed(list(self.laterals)[:-1]), reversed(pyramid[:-1]), strict=True):
            fused = lateral(feature) + functional.interpolate(fused, size=feature.shape[2:], mode="bilinear", align_corners=False)
        result: Tensor = self.smooth(fused)
        return result


class Segmenter(nn.Module):
    """(B, 3, H, W) normalized → logits (B, C + 1, h, w) on the cell grid; channel 0 = background."""

    def __init__(self, config: SegmenterConfig, pretrained: bool = False, weights: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, config.stages, pretrained, weights, config.image_px)
        self.decoder = _make_decoder(config, self.encoder)
        self.head = nn.Conv2d(config.width, config.num_classes + 1, 1)

    @property
    def cell_px(self) -> int:
        """Input pixels per output cell."""
        return self.encoder.strides[0]

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decoder(self.encoder(images)))
        return logits
