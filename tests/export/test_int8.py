"""int8 graphs: what is quantized and what is not, that they keep the rules of every lane, and that nothing is calibrated on nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from export.errors import GraphError, TilesError
from export.int8 import to_int8
from export.precision import measure_precision
from export.signature import network_signature
from export.tiles import read_tiles
from export.to_onnx import check_graph, to_onnx
from export.wrapper import SegmentNet
from tests.export.networks import DEMO, SEGMENT_CELL_PX, SmallSegmenter, tissue_like

pytestmark = pytest.mark.slow

SIGNATURE = network_signature("segment", DEMO, SEGMENT_CELL_PX)


class Deep(nn.Module):
    """Logits (B, 5, 56, 56) by four convolutions, a sigmoid gate between the middle ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16), nn.ReLU())
        self.second, self.third = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.second(self.stem(images)).relu()
        logits: Tensor = self.head(self.third(features * features.sigmoid()).relu())
        return logits * 16


def _exported(network: nn.Module) -> onnx.ModelProto:
    return to_onnx(SegmentNet(network, DEMO.normalization, SEGMENT_CELL_PX), SIGNATURE)


@pytest.fixture(scope="module")
def deep() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(fp32, int8)."""
    fp32 = _exported(Deep())
    return fp32, to_int8(fp32, tissue_like(8))


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def test_int8_keeps_the_rules_of_every_lane(deep: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    check_graph(deep[1], SIGNATURE)
    assert {node.domain for node in deep[1].graph.node} == {""}


def test_inner_layers_are_quantized_and_the_first_and_last_are_not(deep: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    makers = _makers(deep[1])
    convolutions = [node for node in deep[1].graph.node if node.op_type == "Conv"]
    assert ["DequantizeLinear" if name in makers else "fp32" for node in convolutions for name in node.input[1:2]] == [
        "fp32",
        "DequantizeLinear",
        "DequantizeLinear",
        "fp32",
    ]


def test_weights_are_int8_per_channel_and_activations_uint8(deep: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    makers, weights = _makers(deep[1]), {tensor.name: tensor for tensor in deep[1].graph.initializer}
    inner = [node for node in deep[1].graph.node if node.op_type == "Conv"][1:3]
    for node in inner:
        quantized, scale, _ = makers[node.input[1]].input
        assert weights[quantized].data_type == TensorProto.INT8
        assert list(weights[scale].dims) == [16]
        activation = makers[makers[node.input[0]].input[0]]
        assert activation.op_type == "QuantizeLinear"
        assert weights[activation.input[2]].data_type == TensorProto.UINT8


def test_gates_softmax_and_levels_are_not_quantized(deep: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    makers = _makers(deep[1])
    kept = [node for node in deep[1].graph.node if node.op_type in ("Softmax", "Round", "ArgMax")]
    assert len(kept) == 3
    for node in kept:
        assert makers[node.input[0]].op_type not in ("DequantizeLinear", "QuantizeLinear")


def test_int8_agrees_with_fp32_on_other_tiles_and_is_not_fp32(deep: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    report = measure_precision("int8", *deep, tissue_like(8, seed=1), rounds=0).require()
    assert report.figures["logits_max_abs"] > 1e-3


def test_reduced_range_takes_seven_bits() -> None:
    model = to_int8(_exported(Deep()), tissue_like(8), reduce_range=True)
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8]
    assert max(int(np.abs(tensor.astype(int)).max(initial=0)) for tensor in weights) == 64


def test_int8_of_no_tiles_is_refused(deep: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    with pytest.raises(TilesError, match=r"at least 8 tiles to calibrate int8 on, got 0: .*--calibration"):
        to_int8(deep[0], np.zeros((0, 224, 224, 3), np.uint8))


def test_calibration_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TilesError, match="expected at least 8 images"):
        read_tiles(tmp_path, 224)


def test_graph_of_a_first_and_a_last_layer_alone_is_refused() -> None:
    with pytest.raises(GraphError, match="expected layers that can be int8, got none between its first and its last"):
        to_int8(_exported(SmallSegmenter()), tissue_like(8))
