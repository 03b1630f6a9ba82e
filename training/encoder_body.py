"""What an encoder is made of: timm's feature models and our own ResNet-38, with their weights. Knows how each is built and read from a file.

A local weight file is one of
- what `histoserve pretrain` wrote (`write_body`): the body's own names under one key;
- a state dict of timm's whole model of that name (.pt, .pth, .safetensors), read by timm;
- for `resnet38`, the published state dict (`resnet38.from_published` lists its names) or ours.
Each must give every parameter of the stages that are used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import (
    resnet38,
    torchvision_schemas,  # noqa: F401  must precede timm
)
from .errors import EncoderError

import timm  # isort: skip
from timm.layers.norm import LayerNorm2d  # isort: skip

_BODY = "histoserve.encoder"  # key of our own weight files


@dataclass(frozen=True)
class BodyOptions:
    """What to build.

    Attributes:
        stages: ascending indices of feature stages.
        pretrained: load timm's own weights (needs its hub).
        weights: a local weight file.
        image_px: side of the images, which windowed transformers must know.
        final_norm: normalize the deepest stage as the model does before it pools, where it is the model's last.
    """

    stages: tuple[int, ...]
    pretrained: bool = False
    weights: Path | None = None
    image_px: int = 224
    final_norm: bool = False


@dataclass(frozen=True)
class Body:
    """A built model.

    Attributes:
        module: images → list of features.
        channels: of each feature.
        strides: input pixels per cell of each feature.
        is_channels_last: features come as (B, h, w, D).
        stage_modules: stage → name of the submodule of `module` that gives its feature, for as many as there are.
        final_norm: for (B, D, h, w) of the deepest stage; identity where the model has none, or none was asked for.
    """

    module: nn.Module
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    is_channels_last: bool = False
    stage_modules: Mapping[int, str] = field(default_factory=dict)
    final_norm: nn.Module = field(default_factory=nn.Identity)


def make_body(name: str, options: BodyOptions) -> Body:
    """Build an encoder's body.

    Raises:
        EncoderError: unknown name or stage, or weights that cannot be had or do not fit.
    """
    return _resnet38(options) if name == resnet38.NAME else _timm(name, options)


def _resnet38(options: BodyOptions) -> Body:
    name = resnet38.NAME
    if options.pretrained and options.weights is None:
        raise EncoderError(f"encoder {name!r}: expected a local weight file, timm has none of this model: give --weights")
    state = read_state(name, options.weights)
    try:
        module = resnet38.ResNet38(options.stages)
    except IndexError as error:
        raise EncoderError(f"encoder {name!r}: cannot be built with stages {options.stages}: {error}") from error
    if state is not None:
        own = state.get(_BODY)
        _load(name, module, own if own is not None else resnet38.from_published(state))
    taps = {index: f"activations.{index + 1}" for index in range(max(options.stages) + 1)}
    return Body(module, module.channels, module.strides, stage_modules=taps)


def _timm(name: str, options: BodyOptions) -> Body:
    if not timm.is_model(name):
        similar = timm.list_models(f"*{name.split('_')[0][:6]}*")[:5]
        raise EncoderError(
            f"encoder {name!r}: expected a name that timm knows, got an unknown one; similar: {', '.join(similar) or 'none'}"
        )
    own = (read_state(name, options.weights) or {}).get(_BODY)
    overlay = {"file": str(options.weights)} if options.weights is not None and own is None else None
    source: dict[str, Any] = {"pretrained": options.pretrained or overlay is not None, "pretrained_cfg_overlay": overlay}
    settings = timm.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": options.image_px} if settings is not None and settings.fixed_input_size else {}
    shape: dict[str, Any] = {"features_only": True, "out_indices": options.stages, **sized}
    try:
        module = _create_from_file(name, shape, source) if overlay is not None else timm.create_model(name, **shape, **source)
        norm = _final_norm(name, options.stages, sized | source) if options.final_norm else nn.Identity()
    except (RuntimeError, IndexError, AssertionError, OSError) as error:
        given = f"weights {options.weights}" if options.weights else "timm's pretrained weights" if options.pretrained else ""
        raise EncoderError(f"encoder {name!r}: cannot be built with {given or f'stages {options.stages}'}: {error}") from error
    if own is not None:
        _load(name, module, own)
    info: Any = module.feature_info
    is_channels_last = getattr(module, "output_fmt", None) == "NHWC"
    return Body(module, tuple(info.channels()), tuple(info.reduction()), is_channels_last, _stage_modules(module), norm)


def _create_from_file(name: str, shape: dict[str, Any], source: dict[str, Any]) -> nn.Module:
    """A timm model with weights from a file, which must have had them all.

    timm leaves parameters that the file lacks as they are and only logs it. From the same random state they equal those of a fresh model.
    """
    with torch.random.fork_rng(devices=[]):
        state = torch.random.get_rng_state()
        fresh: nn.Module = timm.create_model(name, **shape)
        torch.random.set_rng_state(state)
        module: nn.Module = timm.create_model(name, **shape, **source)
    before = fresh.state_dict()
    # Of a constant start nothing can be told: a file may hold the same constant.
    kept = [key for key, value in module.named_parameters() if torch.equal(value, before[key]) and value.min() != value.max()]
    if kept:
        raise RuntimeError(f"the file lacks {len(kept)} parameters of this model, e.g. {kept[0]}")
    return module


def _final_norm(name: str, stages: tuple[int, ...], settings: dict[str, Any]) -> nn.Module:
    """The LayerNorm that a transformer applies to its last stage before it pools; timm's feature models leave it out.

    Identity for models without one, and for those that pool first and normalize then (ConvNeXt).
    """
    whole: Any = timm.create_model(name, num_classes=0, **settings)
    norm = getattr(whole, "norm", None)
    if max(stages) < len(whole.feature_info) - 1 or not isinstance(norm, nn.LayerNorm):
        return nn.Identity()
    over_channels = LayerNorm2d(norm.normalized_shape[0], eps=norm.eps)
    over_channels.load_state_dict(norm.state_dict())
    return over_channels


def _stage_modules(module: nn.Module) -> dict[int, str]:
    """Where timm's feature model computes each stage it knows of; deeper ones than it holds are left out."""
    info: Any = module.feature_info
    present = dict(module.named_modules())
    found = {}
    for index, stage in enumerate(info.info):
        names = (stage["module"], stage["module"].replace(".", "_"))  # timm flattens sequences of stages
        if name := next((name for name in names if name in present), None):
            found[index] = name
    return found


def read_state(name: str, weights: Path | None) -> dict[str, Any] | None:
    """The content of a weight file; None for no file, or for .safetensors, which is timm's to read.

    Raises:
        EncoderError: no such file, or not one of weights.
    """
    if weights is None:
        return None
    if not weights.is_file():
        raise EncoderError(f"encoder {name!r}: expected a checkpoint file at {weights}, found none")
    if weights.suffix == ".safetensors" and name != resnet38.NAME:
        return None
    try:
        content: Any = _read(weights)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise EncoderError(f"encoder {name!r}: expected weights in {weights}, cannot read them ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise EncoderError(f"encoder {name!r}: expected a state dict in {weights}, got {type(content).__name__}")
    return content


def _read(weights: Path) -> Any:
    if weights.suffix != ".safetensors":
        return torch.load(weights, map_location="cpu", weights_only=True)
    from safetensors.torch import load_file  # comes with timm

    return load_file(weights)


def _load(name: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Every parameter of the body must come from the file; deeper stages in the file are left out."""
    needed = module.state_dict()
    # How many batches a normalization saw is no weight, and published files lack it.
    counters = {key for key in needed if key.endswith("num_batches_tracked")}
    lacking = [key for key, value in needed.items() if key not in counters and (key not in state or state[key].shape != value.shape)]
    if lacking:
        raise EncoderError(
            f"encoder {name!r}: expected weights of every parameter, the file lacks {len(lacking)}, e.g. {lacking[0]}: "
            "pre-train this encoder up to the deepest stage that is used"
        )
    module.load_state_dict({key: state.get(key, value) for key, value in needed.items()})


def write_body(path: Path, module: nn.Module) -> None:
    """Write a body's weights for `BodyOptions.weights`; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    torch.save({_BODY: module.state_dict()}, partial)
    os.replace(partial, path)
