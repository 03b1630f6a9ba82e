"""Networks as what a file holds: their kind, configuration and weights. Knows each kind of network, no task and no method."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .classifier import Classifier, ClassifierConfig
from .errors import CheckpointError
from .mean_segmenter import MeanSegmenter
from .refinement import RefinementConfig, RefinementNet
from .segmenter import Segmenter, SegmenterConfig


def pack(network: nn.Module) -> dict[str, Any]:
    """A network as plain values and tensors."""
    if isinstance(network, MeanSegmenter):
        return {"kind": "mean", "members": [pack(member) for member in network.networks]}
    kind = next(name for name, (network_type, _) in _KINDS.items() if isinstance(network, network_type))
    config: Any = network.config
    return {"kind": kind, "config": dataclasses.asdict(config), "state": network.state_dict()}


def unpack(content: Mapping[str, Any]) -> nn.Module:
    """The network that `pack` took, in evaluation mode.

    Raises:
        KeyError, TypeError, RuntimeError: not what `pack` wrote, or from another histoserve.
    """
    if content["kind"] == "mean":
        return MeanSegmenter([unpack(member) for member in content["members"]]).eval()
    _, make = _KINDS[content["kind"]]
    network = make({key: tuple(value) if isinstance(value, list) else value for key, value in content["config"].items()})
    network.load_state_dict(content["state"])
    return network.eval()


_KINDS: dict[str, tuple[type[nn.Module], Callable[[dict[str, Any]], nn.Module]]] = {
    "classifier": (Classifier, lambda config: Classifier(ClassifierConfig(**config))),
    "segmenter": (Segmenter, lambda config: Segmenter(SegmenterConfig(**config))),
    "refinement": (RefinementNet, lambda config: RefinementNet(RefinementConfig(**config))),
}


def save_network(path: Path, network: nn.Module) -> None:
    """Write one network; the file appears whole or not at all."""
    write_whole(path, pack(network))


def load_network(path: Path) -> nn.Module:
    """Read what `save_network` wrote, in evaluation mode. Nothing in the file is executed (`weights_only`).

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        return unpack(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise CheckpointError(
            f"{path}: expected a stage's network, cannot read it: {error}: remove {path.parent} and train again"
        ) from error


def write_whole(path: Path, content: Mapping[str, Any]) -> None:
    """torch.save under another name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(dict(content), partial)
    os.replace(partial, path)
