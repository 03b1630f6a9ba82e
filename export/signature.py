"""Names, types and shapes of every graph and step of a release, stated once: `to_onnx` checks graphs against it, `release` writes it as `config.pbtxt`."""

from __future__ import annotations

from dataclasses import dataclass

from serving.contract import BACKGROUND, CAM, IMAGE, LABELS, PROBABILITIES, SCORES, TILE, Kind, TissueTask
from serving.modelconfig import Tensor

UINT8, FP32, BYTES = "TYPE_UINT8", "TYPE_FP32", "TYPE_STRING"


NET_PREFIX = "NET_"  # an output of the network where the combine graph reads it


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one served model; dims without the batch."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def network_signature(kind: Kind, task: TissueTask, cell_px: int) -> Signature:
    """The network's graph, and every ensemble of that kind: TILE → LABELS and what they rest on."""
    tile = Tensor(TILE, UINT8, (task.tile_px, task.tile_px, 3))
    labels = Tensor(LABELS, UINT8, (task.tile_px, task.tile_px))
    grid, classes = task.tile_px // cell_px, len(task.classes)
    if kind == "segment":
        return Signature((tile,), (labels, Tensor(PROBABILITIES, UINT8, (classes + 1, grid, grid))))
    return Signature((tile,), (labels, Tensor(CAM, FP32, (classes, grid, grid)), Tensor(SCORES, FP32, (classes,))))


def labels_signature(kind: Kind, task: TissueTask, cell_px: int) -> Signature:
    """The combine graph: what it reads of the network's outputs (NET_…) and BACKGROUND → the network's outputs again."""
    outputs = network_signature(kind, task, cell_px).outputs
    inputs = [Tensor(NET_PREFIX + tensor.name, tensor.data_type, tensor.dims) for tensor in outputs if is_combined(kind, tensor.name)]
    return Signature((*inputs, *background_signature(task).outputs), outputs)


def is_combined(kind: Kind, output: str) -> bool:
    """Whether the combine graph reads this output of the network. PROBABILITIES say the labels; CAM and SCORES do not, the gate is behind them."""
    return kind == "cam" or output != LABELS


def background_signature(task: TissueTask) -> Signature:
    """The python step: TILE → BACKGROUND."""
    tile = Tensor(TILE, UINT8, (task.tile_px, task.tile_px, 3))
    return Signature((tile,), (Tensor(BACKGROUND, UINT8, (task.tile_px, task.tile_px)),))


def decode_signature(task: TissueTask) -> Signature:
    """The python step in front of `<m>_segment_image`: IMAGE → TILE."""
    return Signature((Tensor(IMAGE, BYTES, (1,)),), (Tensor(TILE, UINT8, (task.tile_px, task.tile_px, 3)),))
