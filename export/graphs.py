"""A checkpoint's networks as checked ONNX graphs. Nothing leaves this module without parity; knows no repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from serving.contract import TILE, Kind, TissueTask

from .parity import ParityReport, check_labels, check_network
from .runtime import Graph
from .signature import labels_signature, network_signature
from .to_onnx import to_onnx
from .wrapper import CamLabels, CamNet, SegmentLabels, SegmentNet

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint


@dataclass(frozen=True)
class KindGraphs:
    """The graphs of one kind and the figures they passed with.

    Attributes:
        labels: the combine graph; None where the task has no background rule.
    """

    kind: Kind
    cell_px: int
    net: onnx.ModelProto
    labels: onnx.ModelProto | None
    reports: tuple[ParityReport, ...]


def export_checkpoint(checkpoint: Checkpoint, tiles: npt.NDArray[np.uint8]) -> tuple[KindGraphs, ...]:
    """The graphs of every network the checkpoint holds.

    Args:
        tiles: real tiles of the task, uint8 (n, tile_px, tile_px, 3); parity is measured on them.

    Raises:
        GraphError: a network cannot be exported.
        ParityError: a graph does not say what its network says.
    """
    graphs = []
    if checkpoint.segment_network is not None:
        graphs.append(export_kind("segment", checkpoint.segment_network, checkpoint.task, checkpoint.segment_cell_px, tiles))
    if checkpoint.cam_network is not None:
        graphs.append(export_kind("cam", checkpoint.cam_network, checkpoint.task, checkpoint.cam_cell_px, tiles))
    return tuple(graphs)


def export_kind(kind: Kind, network: nn.Module, task: TissueTask, cell_px: int, tiles: npt.NDArray[np.uint8]) -> KindGraphs:
    """Export one network and its combine graph, and check both."""
    wrapper = (SegmentNet if kind == "segment" else CamNet)(network, task.normalization, cell_px)
    net = to_onnx(wrapper, network_signature(kind, task, cell_px))
    reports = [check_network(kind, network, net, task, cell_px, tiles)]
    labels = None
    if task.background is not None:
        combine = SegmentLabels(cell_px) if kind == "segment" else CamLabels()
        labels = to_onnx(combine, labels_signature(kind, task, cell_px))
        reports.append(check_labels(kind, labels, Graph(net).run({TILE: tiles}), cell_px))
    return KindGraphs(kind, cell_px, net, labels, tuple(reports))
