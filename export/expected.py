"""What a network's graph should answer: by the torch network, or, for a published graph without it, by ONNX Runtime's own answer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from serving.contract import CAM, PROBABILITIES, SCORES, TILE, Kind, TissueTask

from . import reference
from .runtime import LOGITS, PEAKS, Graph, expose_logits, expose_peaks

_LOGITS_BEHIND = {"segment": (PROBABILITIES, "Softmax"), "cam": (SCORES, "Sigmoid")}

Tiles = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Expected:
    """The yardstick.

    Attributes:
        by: whose answer it is, for the report.
        outputs: the graph's outputs and LOGITS.
        peaks: (n, C), the largest activation of each map; None for a segmenter.
    """

    by: str
    outputs: reference.Outputs
    peaks: reference.Floats | None


def from_torch(kind: Kind, network: nn.Module, task: TissueTask, cell_px: int, tiles: Tiles) -> Expected:
    """Each tile alone through the torch network, decoded in numpy."""
    network.eval()
    raw = reference.run_network(network, tiles, task.normalization)
    if kind == "segment":
        (logits,) = raw
        # From what the network answers, not from what it says of itself: that is what the graph was made by.
        has_background = logits.shape[1] > len(task.classes)
        return Expected("torch", {LOGITS: logits, **reference.segment_outputs(logits, cell_px, has_background)}, None)
    class_maps, logits = raw
    return Expected("torch", {LOGITS: logits, **reference.cam_outputs(class_maps, logits, cell_px)}, reference.peaks(class_maps))


def from_graph(kind: Kind, model: onnx.ModelProto, tiles: Tiles) -> Expected:
    """Each tile alone through ONNX Runtime."""
    exposed = expose(kind, model)
    graph = Graph(exposed if kind == "segment" else expose_peaks(exposed, CAM))
    rows = [graph.run({TILE: tile[None]}) for tile in tiles]
    outputs = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    peaks = outputs.pop(PEAKS, None)
    return Expected("onnxruntime", outputs, None if peaks is None else peaks[:, :, 0, 0])


def expose(kind: Kind, model: onnx.ModelProto) -> onnx.ModelProto:
    """The network's graph with LOGITS as one more output."""
    return expose_logits(model, *_LOGITS_BEHIND[kind])
