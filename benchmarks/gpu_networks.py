"""Our networks with random weights, as they are served: uint8 tiles in, uint8 masks out; and how much arithmetic a tile is. Imports torch and timm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from export.wrapper import CamNet, SegmentNet
from serving.contract import Kind, TissueTask
from serving.tasks import get_task
from training.classifier import Classifier, ClassifierConfig
from training.segmenter import Segmenter, SegmenterConfig

Precision = Literal["fp32", "fp16"]
ENCODERS = {"swin-t": "swin_tiny_patch4_window7_224", "swin-s": "swin_small_patch4_window7_224", "smoke": "resnet10t"}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
_WIDTH = 256


class Served(nn.Module):
    """A wrapper whose network computes in another precision; normalization, softmax and quantization stay float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype
        self.has_background = getattr(network, "has_background", True)

    def forward(self, images: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        answer = self.network(images.to(self.dtype))
        return answer.float() if isinstance(answer, torch.Tensor) else tuple(part.float() for part in answer)


@dataclass(frozen=True)
class Network:
    """One network on a device.

    Attributes:
        module: uint8 (B, side, side, 3) → the served outputs.
        gflops: 10⁹ operations per tile, multiplications and additions counted apart.
    """

    name: str
    kind: Kind
    precision: Precision
    module: nn.Module
    task: TissueTask
    cell_px: int
    gflops: float


def make_network(encoder: str, kind: Kind, precision: Precision, device: torch.device) -> Network:
    """Weights are random: they cost the same time."""
    torch.manual_seed(0)
    task = get_task("demo")
    if kind == "segment":
        segmenter = Segmenter(SegmenterConfig(ENCODERS[encoder], (0, 1, 2, 3), len(task.classes), _WIDTH)).eval()
        cell_px = segmenter.cell_px
        module: nn.Module = SegmentNet(Served(segmenter, _DTYPES[precision]), task.normalization, cell_px)
    else:
        classifier = Classifier(ClassifierConfig(ENCODERS[encoder], (2, 3), len(task.classes))).eval()
        cell_px = classifier.cell_px
        module = CamNet(Served(classifier, _DTYPES[precision]), task.normalization, cell_px)
    module = module.to(device).eval()
    return Network(encoder, kind, precision, module, task, cell_px, _gflops(module, task.tile_px, device))


def tiles_of(batch: int, side: int, device: torch.device) -> torch.Tensor:
    """uint8 (batch, side, side, 3), random."""
    return torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, device=device)


def write_onnx(network: Network, path: Path) -> None:
    """As `histoserve export` would: fp16 is the fp32 graph of the same weights converted, its ranges measured on generated tissue.

    Raises:
        GraphError: torch cannot export it, or it cannot be converted.
        ParityError: fp16 cannot hold its values.
    """
    from export.canary import canary_tiles  # onnx is not on every machine that has torch
    from export.half import to_half
    from export.signature import network_signature
    from export.to_onnx import to_onnx

    source = network if network.precision == "fp32" else make_network(network.name, network.kind, "fp32", torch.device("cpu"))
    graph = to_onnx(source.module.cpu(), network_signature(network.kind, network.task, network.cell_px))
    if network.precision == "fp16":
        graph = to_half(graph, canary_tiles(network.task.tile_px))
    path.write_bytes(graph.SerializeToString())


def _gflops(module: nn.Module, side: int, device: torch.device) -> float:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(tiles_of(1, side, device))
    return float(counter.get_total_flops()) / 1e9
