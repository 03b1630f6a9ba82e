"""A checkpoint's networks as checked ONNX graphs. Nothing leaves this module without parity; knows no repository."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from serving.contract import TILE, Kind, TissueTask

from .convert import FP32, PrecisionOptions, convert
from .engines import ENGINES, Engine
from .expected import Expected, from_torch
from .figures import ParityReport, require_parity
from .parity import Precision, measure_labels, measure_network, require_tiles
from .precision import PrecisionReport
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
        labels: the combine graph, fp32 whatever the network's precision; None where the task has no background rule.
        reports: one per graph and engine, also of the engines that are not there.
        cost: the network beside its fp32 form; None where it is fp32.
    """

    kind: Kind
    cell_px: int
    net: onnx.ModelProto
    labels: onnx.ModelProto | None
    reports: tuple[ParityReport, ...]
    precision: Precision = "fp32"
    cost: PrecisionReport | None = None


def export_checkpoint(checkpoint: Checkpoint, tiles: npt.NDArray[np.uint8], options: PrecisionOptions = FP32) -> tuple[KindGraphs, ...]:
    """The graphs of every network the checkpoint holds.

    Args:
        tiles: real tiles of the task, uint8 (n, tile_px, tile_px, 3); parity is measured on them.

    Raises:
        GraphError: a network cannot be exported or converted.
        ParityError: a graph does not say what its network says.
    """
    graphs = []
    if checkpoint.segment_network is not None:
        graphs.append(export_kind("segment", checkpoint.segment_network, checkpoint.task, checkpoint.segment_cell_px, tiles, options))
    if checkpoint.cam_network is not None:
        graphs.append(export_kind("cam", checkpoint.cam_network, checkpoint.task, checkpoint.cam_cell_px, tiles, options))
    return tuple(graphs)


def export_kind(
    kind: Kind, network: nn.Module, task: TissueTask, cell_px: int, tiles: npt.NDArray[np.uint8], options: PrecisionOptions = FP32
) -> KindGraphs:
    """Export one network and its combine graph, and check both in every engine that is there."""
    require_tiles(kind, tiles)
    wrapper = (SegmentNet if kind == "segment" else CamNet)(network, task.normalization, cell_px)
    net = to_onnx(wrapper, network_signature(kind, task, cell_px))
    expected = from_torch(kind, network, task, cell_px, tiles)
    cost = None
    if options.precision != "fp32":
        measure_network(kind, net, expected, tiles, cell_px).require()  # else the wider limits would hide a wrong graph
        net, cost = convert(net, tiles, options)
    labels = None
    if task.background is not None:
        labels = to_onnx(SegmentLabels(cell_px) if kind == "segment" else CamLabels(), labels_signature(kind, task, cell_px))
    graphs = KindGraphs(kind, cell_px, net, labels, (), options.precision, cost)
    reports = measure_graphs(graphs, expected, tiles)
    require_parity(reports)
    return dataclasses.replace(graphs, reports=reports)


def measure_graphs(
    graphs: KindGraphs, expected: Expected, tiles: npt.NDArray[np.uint8], engines: Sequence[Engine] = ENGINES
) -> tuple[ParityReport, ...]:
    """The figures of both graphs in every engine, within their limits or not.

    Raises:
        GraphError: an engine cannot run a graph.
    """
    kind, cell_px = graphs.kind, graphs.cell_px
    reports = [measure_network(kind, graphs.net, expected, tiles, cell_px, engine, graphs.precision) for engine in engines]
    if graphs.labels is not None:
        answer = Graph(graphs.net).run({TILE: tiles})
        reports += [measure_labels(kind, graphs.labels, answer, tiles, cell_px, engine) for engine in engines if engine.combines]
    return tuple(reports)
