"""Encoders as one signature: normalized RGB in, a pyramid of features out. Knows no task and no loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from .encoder_body import BodyOptions, make_body, write_body
from .errors import EncoderError


class Encoder(nn.Module):
    """A feature model cut off after the deepest stage that is used.

    Attributes:
        stages: indices of the stages returned, shallow to deep.
        channels: feature channels of each returned stage.
        strides: input pixels per feature cell of each returned stage.
    """

    def __init__(
        self,
        name: str,
        stages: Sequence[int],
        pretrained: bool = False,
        weights: Path | None = None,
        image_px: int = 224,
        final_norm: bool = False,
    ) -> None:
        """Build the encoder.

        Args:
            name: a timm model that gives features, e.g. `resnet10t`, `convnext_atto`, `swin_tiny_patch4_window7_224`; or `resnet38`.
            stages: which of its feature stages to return (timm `out_indices`), ascending.
            pretrained: load timm's own weights (needs its hub).
            weights: a local weight file: `training.encoder_body` says which kinds.
            image_px: side of the images, which windowed transformers must know; others take any.
            final_norm: transformers normalize their last stage before they pool, and timm's features come before that: normalize them. Does
                nothing for other models (METHODS "PSCL": f = last stage after its final norm). Starts fresh with weights of `histoserve pretrain`.

        Raises:
            EncoderError: unknown name or stage, or weights that cannot be had or do not fit.
        """
        super().__init__()
        self.name = name
        self.stages = tuple(stages)
        if list(self.stages) != sorted(set(self.stages)) or not self.stages or self.stages[0] < 0:
            raise EncoderError(f"encoder {name!r}: expected ascending, different stages, got {tuple(stages)}")
        body = make_body(name, BodyOptions(self.stages, pretrained, weights, image_px, final_norm))
        self.body = body.module
        self.final_norm = body.final_norm
        self.channels = body.channels
        self.strides = body.strides
        self._is_channels_last = body.is_channels_last
        self._stage_modules = body.stage_modules

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalized → one (B, channels[i], H / strides[i], W / strides[i]) per stage.

        Raises:
            EncoderError: images of a size that the model was not built for.
        """
        try:
            features: list[Tensor] = self.body(images)
        except AssertionError as error:  # timm's windowed transformers check the size with one
            height, width = images.shape[2:]
            raise EncoderError(
                f"encoder {self.name!r}: cannot take images of {width}×{height} px: {error}. Build it with the images' side as image_px; "
                "for scales other than 1 take an encoder of convolutions"
            ) from error
        *shallower, deepest = [self.channels_first(feature) for feature in features]
        return [*shallower, self.final_norm(deepest)]

    def channels_first(self, feature: Tensor) -> Tensor:
        """A feature as the body gives it → (B, D, h, w). timm's windowed transformers give (B, h, w, D)."""
        return feature.permute(0, 3, 1, 2) if self._is_channels_last else feature

    @contextmanager
    def captured(self, stage: int) -> Iterator[list[Tensor]]:
        """While open, each forward pass appends one stage's feature as the body computes it: any stage up to the deepest, returned or not.

        What is appended lies on the way to the output (gradients of it can be taken), in the body's layout: `channels_first` turns it.

        Raises:
            EncoderError: the body has no module whose output is a map of that stage.
        """
        name = self._stage_modules.get(stage)
        if name is None:
            known = ", ".join(str(index) for index in self._stage_modules) or "none"
            raise EncoderError(f"encoder {self.name!r}: expected one of the feature stages {known} to look into, got {stage}")
        captured: list[Tensor] = []
        handle = self.body.get_submodule(name).register_forward_hook(_keep_in(captured, self.name, stage))
        try:
            yield captured
        finally:
            handle.remove()


def _keep_in(captured: list[Tensor], name: str, stage: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            raise EncoderError(f"encoder {name!r}: expected a feature map at stage {stage}, got tokens: choose another stage or encoder")
        # Where all before it is frozen, the graph begins here.
        kept = output if output.requires_grad or not torch.is_grad_enabled() else output.detach().requires_grad_(True)
        captured.append(kept)
        return kept

    return keep


def save_body(path: Path, encoder: Encoder) -> None:
    """Write an encoder's weights for `Encoder(weights=…)`, without a final norm; the file appears whole or not at all."""
    write_body(path, encoder.body)


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
