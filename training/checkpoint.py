"""A trained model on disk: weights of both networks, the task they were trained for, and how they came to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from serving.contract import ContractError, TissueTask, task_from_dict, task_to_dict

from .classifier import Classifier
from .errors import CheckpointError
from .mean_segmenter import MeanSegmenter
from .network_file import pack, unpack, write_whole
from .segmenter import Segmenter

CHECKPOINT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """Both networks in evaluation mode.

    Attributes:
        cam_network: normalized (B, 3, H, W) → class maps (B, C, h, w) without bias, logits (B, C); None where masks were learned.
        segment_network: normalized (B, 3, H, W) → logits (B, K, h, w), K = C + 1 or C without background; None where only stage 1 was trained.
        provenance: plain values: command, versions, data, figures.
    """

    task: TissueTask
    method: str
    cam_network: Classifier | None
    segment_network: Segmenter | MeanSegmenter | None
    provenance: dict[str, Any]

    @property
    def cam_cell_px(self) -> int:
        if self.cam_network is None:
            raise CheckpointError("checkpoint: expected a classification network, got one that learned masks alone: it has no CAMs")
        return self.cam_network.cell_px

    @property
    def segment_cell_px(self) -> int:
        if self.segment_network is None:
            raise CheckpointError("checkpoint: expected a segmentation network, got stage 1 alone: train stage 2 first")
        return self.segment_network.cell_px


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint; it appears whole or not at all."""
    classifier, segmenter = checkpoint.cam_network, checkpoint.segment_network
    content = {
        "version": CHECKPOINT_VERSION,
        "task": task_to_dict(checkpoint.task),
        "method": checkpoint.method,
        "classifier": None if classifier is None else pack(classifier),
        "segmenter": None if segmenter is None else pack(segmenter),
        "provenance": checkpoint.provenance,
    }
    write_whole(path, content)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint that `save` wrote. Nothing in the file is executed (`weights_only`).

    Raises:
        CheckpointError: no such file, not a checkpoint, another version, or weights that do not fit.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: expected a checkpoint, found no file: train one with `histoserve train`")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file; all mean the same to the user
        raise CheckpointError(f"{path}: expected a histoserve checkpoint, cannot read it: {error}") from error
    if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
        found = content.get("version") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: expected checkpoint version {CHECKPOINT_VERSION}, got {found}: train again with this histoserve")
    try:
        return _restore(content)
    except (KeyError, TypeError, RuntimeError, ContractError) as error:
        raise CheckpointError(f"{path}: the checkpoint is damaged or from another histoserve: {error}") from error


def _restore(content: Mapping[str, Any]) -> Checkpoint:
    networks = {}
    for kind in ("classifier", "segmenter"):
        # Checkpoints from before there were other kinds do not name theirs.
        networks[kind] = None if content[kind] is None else unpack({"kind": kind} | content[kind])
    return Checkpoint(
        task=task_from_dict(content["task"]),
        method=content["method"],
        cam_network=networks["classifier"],  # type: ignore[arg-type]
        segment_network=networks["segmenter"],  # type: ignore[arg-type]
        provenance=dict(content["provenance"]),
    )
