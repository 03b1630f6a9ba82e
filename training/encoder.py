"""timm encoders as one signature: normalized RGB in, a pyramid of features out. Knows no task and no loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import torchvision_schemas  # noqa: F401  must precede timm
from .errors import EncoderError

import timm  # isort: skip


class Encoder(nn.Module):
    """A timm feature model cut off after the deepest stage that is used.

    Attributes:
        stages: indices of the stages returned, shallow to deep.
        channels: feature channels of each returned stage.
        strides: input pixels per feature cell of each returned stage.
    """

    def __init__(self, name: str, stages: Sequence[int], pretrained: bool = False, weights: Path | None = None) -> None:
        """Build the encoder.

        Args:
            name: a timm model that gives features, e.g. `resnet10t`, `convnext_atto`, `swin_tiny_patch4_window7_224`.
            stages: which of its feature stages to return (timm `out_indices`), ascending.
            pretrained: load timm's own weights (needs its hub).
            weights: a local checkpoint file (.pth, .safetensors) for the whole model, loaded strictly except its classifier.

        Raises:
            EncoderError: unknown name or stage, or weights that cannot be had or do not fit.
        """
        super().__init__()
        self.name = name
        self.stages = tuple(stages)
        if list(self.stages) != sorted(set(self.stages)) or not self.stages:
            raise EncoderError(f"encoder {name!r}: expected ascending, different stages, got {tuple(stages)}")
        if not timm.is_model(name):
            similar = timm.list_models(f"*{name.split('_')[0][:6]}*")[:5]
            raise EncoderError(
                f"encoder {name!r}: expected a name that timm knows, got an unknown one; similar: {', '.join(similar) or 'none'}"
            )
        overlay = {"file": str(_existing(name, weights))} if weights is not None else None
        try:
            body = timm.create_model(
                name,
                features_only=True,
                out_indices=self.stages,
                pretrained=pretrained or weights is not None,
                pretrained_cfg_overlay=overlay,
            )
        except (RuntimeError, IndexError, AssertionError, OSError) as error:
            source = f"weights {weights}" if weights else "timm's pretrained weights" if pretrained else f"stages {self.stages}"
            raise EncoderError(f"encoder {name!r}: cannot be built with {source}: {error}") from error
        self.body: nn.Module = body
        stage_info: Any = body.feature_info
        self.channels: tuple[int, ...] = tuple(stage_info.channels())
        self.strides: tuple[int, ...] = tuple(stage_info.reduction())

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalized → one (B, channels[i], H / strides[i], W / strides[i]) per stage."""
        features: list[Tensor] = self.body(images)
        # Transformers of timm give NHWC features; the channel count tells which axis is which.
        return [
            feature if feature.shape[1] == channels else feature.permute(0, 3, 1, 2)
            for feature, channels in zip(features, self.channels, strict=True)
        ]


def _existing(name: str, weights: Path) -> Path:
    if not weights.is_file():
        raise EncoderError(f"encoder {name!r}: expected a checkpoint file at {weights}, found none")
    return weights


def copy_encoder(source: Encoder, target: Encoder) -> None:
    """Start `target` from `source`'s weights: every parameter that both have (stage 2 starts from stage 1, METHODS).

    Raises:
        EncoderError: the target has parameters that the source lacks, other than those of deeper stages.
    """
    state = source.state_dict()
    missing = [key for key in target.state_dict() if key not in state]
    if missing and max(target.stages) <= max(source.stages):
        raise EncoderError(f"encoder {target.name!r}: expected the weights of {missing[:3]}… in {source.name!r}, found none")
    target.load_state_dict({key: value for key, value in state.items() if key in target.state_dict()}, strict=False)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 or float 0…255 (B, 3, H, W) → normalized float32."""
    mean_255 = torch.tensor(mean, device=images.device).view(1, 3, 1, 1) * 255
    std_255 = torch.tensor(std, device=images.device).view(1, 3, 1, 1) * 255
    return (images.float() - mean_255) / std_255
