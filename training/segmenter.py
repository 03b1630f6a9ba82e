"""Stage 2's network: encoder and pixel decoder, one output per class and background on the cell grid (thesis §4.4). Knows no loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from .encoder import Encoder
from .errors import RecipeError
from .smp_decoders import Attention, PspNet, UnetPlusPlus

DecoderKind = Literal["fpn", "mask2former", "unetplusplus", "pspnet"]
_FINEST_CELL_PX = 4  # decoders that answer finer are averaged to it: more cells cost every slide, and pseudo-masks hold no more


@dataclass(frozen=True)
class SegmenterConfig:
    """What the network is; saved with its weights.

    Attributes:
        stages: feature stages the decoder reads, shallow to deep. The grid of fpn and mask2former is the shallowest's, of pspnet the deepest's, which
            alone it reads; unetplusplus answers twice as fine as the shallowest.
        width: channels of the decoder's output.
        decoder: fpn; mask2former (the thesis's), which needs stages of strides 4, 8, 16, 32; unetplusplus (PistoSeg's), whose stages double
            their strides; pspnet (ARML's and OEEM's).
        decoder_layers: of mask2former's deformable encoder.
        image_px: side of the images.
        has_background: C + 1 outputs and channel 0 is background; without, C outputs (PistoSeg, ARML).
        attention: of unetplusplus's blocks; PistoSeg's have scse.
    """

    encoder: str
    stages: tuple[int, ...]
    num_classes: int
    width: int
    decoder: DecoderKind = "fpn"
    decoder_layers: int = 6
    image_px: int = 224
    has_background: bool = True
    attention: Attention | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 2 and not self.has_background:
            raise RecipeError(f"segmenter: expected a background or at least two classes to tell apart, got {self.num_classes} and none")
        if self.attention is not None and self.decoder != "unetplusplus":
            raise RecipeError(f"segmenter: expected attention {self.attention} with decoder unetplusplus alone, got {self.decoder}")


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
    """(B, 3, H, W) normalized → logits (B, K, h, w) on the cell grid: K = C + 1 with channel 0 = background, or K = C without one.

    Attributes:
        cell_px: input pixels per output cell.
    """

    def __init__(self, config: SegmenterConfig, pretrained: bool = False, weights: Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, config.stages, pretrained, weights, config.image_px)
        made = _make_decoder(config, self.encoder)
        self.decoder = made.module
        self.head = nn.Conv2d(config.width, config.num_classes + config.has_background, made.head_kernel, padding=made.head_kernel // 2)
        self.cell_px = max(made.stride, made.finest_cell_px)
        self._cells_averaged = self.cell_px // made.stride

    @property
    def has_background(self) -> bool:
        """Whether channel 0 is background. Without, class c is channel c − 1."""
        return self.config.has_background

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.decoder(self.encoder(images)))
        return functional.avg_pool2d(logits, self._cells_averaged) if self._cells_averaged > 1 else logits


@dataclass(frozen=True)
class _Made:
    """A decoder and how its answer is read.

    Attributes:
        stride: input pixels per cell of its answer.
        head_kernel: side of the last convolution.
        finest_cell_px: logits finer than this are averaged.
    """

    module: nn.Module
    stride: int
    head_kernel: int = 1
    finest_cell_px: int = 1


def _make_decoder(config: SegmenterConfig, encoder: Encoder) -> _Made:
    channels, strides = encoder.channels, encoder.strides
    if config.decoder == "fpn":
        return _Made(FpnDecoder(channels, config.width), strides[0])
    if config.decoder == "mask2former":
        from .pixel_decoder import Mask2FormerDecoder  # transformers takes seconds to import, and only this decoder needs it

        return _Made(Mask2FormerDecoder(channels, strides, config.width, config.decoder_layers), strides[0])
    # These two as the library's networks: they end in a 3×3 convolution.
    if config.decoder == "unetplusplus":
        nested = UnetPlusPlus(channels, strides, config.width, config.attention)
        return _Made(nested, nested.stride, 3, _FINEST_CELL_PX)
    pooled = PspNet(channels, strides, config.width)
    return _Made(pooled, pooled.stride, 3, _FINEST_CELL_PX)
