"""timm encoders as one signature: normalized RGB in, a pyramid of features out. Knows no task and no loss."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import torchvision_schemas  # noqa: F401  must precede timm
from .errors import EncoderError

import timm  # isort: skip


_BODY = "histoserve.encoder"  # key of our own weight files


class Encoder(nn.Module):
    """A timm feature model cut off after the deepest stage that is used.

    Attributes:
        stages: indices of the stages returned, shallow to deep.
        channels: feature channels of each returned stage.
        strides: input pixels per feature cell of each returned stage.
    """

    def __init__(
        self, name: str, stages: Sequence[int], pretrained: bool = False, weights: Path | None = None, image_px: int = 224
    ) -> None:
        """Build the encoder.

        Args:
            name: a timm model that gives features, e.g. `resnet10t`, `convnext_atto`, `swin_tiny_patch4_window7_224`.
            stages: which of its feature stages to return (timm `out_indices`), ascending.
            pretrained: load timm's own weights (needs its hub).
            weights: a local checkpoint file (.pt, .pth, .safetensors): of timm's whole model, or what `histoserve pretrain` wrote.
            image_px: side of the images, which windowed transformers must know; others take any.

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
        own = _read_body(name, weights)
        overlay = {"file": str(weights)} if weights is not None and own is None else None
        settings = timm.get_pretrained_cfg(name)
        sized: dict[str, Any] = {"img_size": image_px} if settings is not None and settings.fixed_input_size else {}
        try:
            body = timm.create_model(
                name,
                features_only=True,
                **sized,
                out_indices=self.stages,
                pretrained=pretrained or overlay is not None,
                pretrained_cfg_overlay=overlay,
            )
        except (RuntimeError, IndexError, AssertionError, OSError) as error:
            source = f"weights {weights}" if weights else "timm's pretrained weights" if pretrained else f"stages {self.stages}"
            raise EncoderError(f"encoder {name!r}: cannot be built with {source}: {error}") from error
        if own is not None:
            _load_body(name, body, own)
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


def _read_body(name: str, weights: Path | None) -> dict[str, Tensor] | None:
    """The weights of an encoder's body as `save_body` wrote them; None for none, or for another kind of file, which is timm's to read."""
    if weights is None:
        return None
    if not weights.is_file():
        raise EncoderError(f"encoder {name!r}: expected a checkpoint file at {weights}, found none")
    if weights.suffix == ".safetensors":
        return None
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise EncoderError(f"encoder {name!r}: expected weights in {weights}, cannot read them ({type(error).__name__})") from error
    return content[_BODY] if isinstance(content, dict) and _BODY in content else None


def _load_body(name: str, body: nn.Module, state: dict[str, Tensor]) -> None:
    """Every parameter of the body must come from the file; deeper stages in the file are left out."""
    needed = body.state_dict()
    lacking = [key for key, value in needed.items() if key not in state or state[key].shape != value.shape]
    if lacking:
        raise EncoderError(
            f"encoder {name!r}: expected weights of every parameter, the file lacks {len(lacking)}, e.g. {lacking[0]}: "
            "pre-train this encoder up to the deepest stage that is used"
        )
    body.load_state_dict({key: state[key] for key in needed})


def save_body(path: Path, encoder: Encoder) -> None:
    """Write an encoder's weights for `Encoder(weights=…)`; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    torch.save({_BODY: encoder.body.state_dict()}, partial)
    os.replace(partial, path)


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
