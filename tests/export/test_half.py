"""fp16 graphs: what became fp16 and what did not, that types need no guessing, and that an overflow no CPU shows is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from export.errors import GraphError, ParityError
from export.graphs import KindGraphs
from export.half import to_half
from export.precision import measure_precision
from export.runtime import Graph
from export.signature import network_signature
from export.to_onnx import check_graph, to_onnx
from export.wrapper import SegmentNet
from serving.contract import LABELS, TILE
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, tissue_like

SIGNATURE = network_signature("segment", DEMO, SEGMENT_CELL_PX)


class Attending(nn.Module):
    """Logits (B, 5, 56, 56) by layer norm, attention among 49 cells and an enlargement: the operators of a transformer with an FPN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Conv2d(3, 32, 32, 32)
        self.norm = nn.LayerNorm(32)
        self.queries, self.keys, self.values = (nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Conv2d(32, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.embed(images).flatten(2).transpose(1, 2))  # (B, 49, 32)
        attention = (self.queries(tokens) @ self.keys(tokens).transpose(1, 2)).softmax(dim=-1)
        mixed = tokens + attention @ self.values(tokens)
        cells = nn.functional.interpolate(mixed.transpose(1, 2).unflatten(2, (7, 7)), scale_factor=8.0, mode="bilinear")
        logits: Tensor = self.head(cells)
        return logits * 4


class Overflowing(nn.Module):
    """Its middle reaches `factor`² times the usual, its logits do not: fp32 does not mind."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.factor = factor
        self.first, self.last = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(8, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.last(self.first(images) * self.factor * self.factor) / self.factor / self.factor
        return logits


class Bounded(nn.Module):
    """What is 0 without its smallest number and infinite without its mask: unit vectors of features that may be none, masked attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.embed, self.head = nn.Conv2d(3, 16, 16, 16), nn.Conv2d(16, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.embed(images).relu() * (images.mean(dim=(1, 2, 3), keepdim=True) > 0)  # none at all for a dark tile
        unit = nn.functional.normalize(features, dim=1, eps=1e-12)
        energy = unit.mean(dim=1).clamp(-60_000, 60_000).masked_fill(torch.eye(14).bool(), -torch.inf)
        logits: Tensor = self.head(unit * energy.softmax(dim=-1).unsqueeze(1))
        return nn.functional.interpolate(logits, scale_factor=4.0) * 64


def _exported(network: nn.Module) -> onnx.ModelProto:
    return to_onnx(SegmentNet(network, DEMO.normalization, SEGMENT_CELL_PX), SIGNATURE)


@pytest.fixture(scope="module")
def attending() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """(fp32, fp16)."""
    fp32 = _exported(Attending())
    return fp32, to_half(fp32, tissue_like(4))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, inferred from the nodes alone."""
    graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _read_types(model: onnx.ModelProto, operator: str) -> set[int]:
    """Element types that the operators of that kind read first."""
    types = _types(model)
    return {types[node.input[0]] for node in model.graph.node if node.op_type == operator}


def test_served_tensors_and_rules_stay(graphs: tuple[KindGraphs, ...]) -> None:
    for kind, cell_px in zip(graphs, (SEGMENT_CELL_PX, CAM_CELL_PX), strict=True):
        check_graph(to_half(kind.net, tissue_like(2)), network_signature(kind.kind, DEMO, cell_px))


def test_layers_with_weights_are_fp16_and_sensitive_operators_are_not(attending: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    _, half = attending
    assert _read_types(half, "Conv") == {TensorProto.FLOAT16}
    assert _read_types(half, "MatMul") == {TensorProto.FLOAT16}
    assert _read_types(half, "Softmax") == {TensorProto.FLOAT}
    assert _read_types(half, "LayerNormalization") == {TensorProto.FLOAT}
    assert _read_types(half, "Round") == {TensorProto.FLOAT}
    assert _read_types(half, "ArgMax") == {TensorProto.FLOAT}


def test_features_are_enlarged_in_fp16_and_levels_in_fp32(attending: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    _, half = attending
    types = _types(half)
    resizes = [node for node in half.graph.node if node.op_type == "Resize"]
    assert [types[node.input[0]] for node in resizes] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    scales = [name for node in resizes for name in node.input[2:3] if name]
    assert {types[name] for name in scales} <= {TensorProto.FLOAT}  # by the operator's definition


def test_no_tensor_goes_through_fp16_between_two_fp32_operators(attending: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    _, half = attending
    types = _types(half)
    makers = {name: node for node in half.graph.node for name in node.output}
    casts = [
        node for node in half.graph.node if node.op_type == "Cast" and types[node.input[0]] in (TensorProto.FLOAT, TensorProto.FLOAT16)
    ]
    for node in casts:
        source = makers.get(node.input[0])
        assert types[node.input[0]] != types[node.output[0]]
        if types[node.output[0]] == TensorProto.FLOAT and source is not None:
            assert source.op_type != "Cast"


def test_a_tensor_is_cast_once_for_all_its_readers(graphs: tuple[KindGraphs, ...]) -> None:
    half = to_half(graphs[1].net, tissue_like(2))  # CAM: its class maps are read by the division, the mean and the peak
    casts = Counter((node.input[0], node.attribute[0].i) for node in half.graph.node if node.op_type == "Cast")
    assert set(casts.values()) == {1}
    assert len({name for node in half.graph.node for name in node.output}) == sum(len(node.output) for node in half.graph.node)


def test_fp16_agrees_with_fp32_and_is_half_as_large(attending: tuple[onnx.ModelProto, onnx.ModelProto]) -> None:
    fp32, half = attending
    report = measure_precision("fp16", fp32, half, tissue_like(8, seed=1), rounds=0).require()
    assert report.figures["label_agreement"] >= 0.995
    assert 0 < report.figures["logits_max_abs"] < 0.05  # not the fp32 graph again
    weights = [sum(len(tensor.raw_data) for tensor in model.graph.initializer) for model in (fp32, half)]
    assert weights[1] < 0.55 * weights[0]


def test_numbers_fp16_cannot_hold_stay_fp32() -> None:
    fp32 = _exported(Bounded())
    tiles = np.concatenate([np.zeros((1, 224, 224, 3), np.uint8), tissue_like(3)])
    half = to_half(fp32, tiles)
    report = measure_precision("fp16", fp32, half, tiles, rounds=0).require()  # NaN without the rule: 0 divided by 0
    assert report.figures["logits_max_abs"] < 0.1
    assert _read_types(half, "Clip") == {TensorProto.FLOAT}
    assert _read_types(half, "Conv") == {TensorProto.FLOAT16}


def test_the_fp32_graph_is_left_as_it_is() -> None:
    fp32 = _exported(Overflowing(1))
    before = fp32.SerializeToString(deterministic=True)
    to_half(fp32, tissue_like(1))
    assert fp32.SerializeToString(deterministic=True) == before


def test_activation_beyond_fp16_is_refused_although_the_cpu_shows_nothing() -> None:
    model = _exported(Overflowing(1000))
    tiles = np.concatenate([np.full((2, 224, 224, 3), 118, np.uint8), tissue_like(1)])  # gray is almost 0 after normalization
    assert np.isfinite(Graph(model).run({TILE: tiles})[LABELS]).all()
    with pytest.raises(ParityError, match=r"'mul\w*' \(Mul\) reaches \S+ on tile 2"):
        to_half(model, tiles)


def test_weight_beyond_fp16_is_refused() -> None:
    network = Overflowing(1)
    with torch.no_grad():
        network.first.weight.mul_(1e-6)
        network.last.weight[0, 0] = 70_000
    with pytest.raises(ParityError, match=r"fp16 weight below 16000, got 'network.last.weight' that reaches 70000"):
        to_half(_exported(network), tissue_like(1))


def test_graph_without_layers_is_refused(graphs: tuple[KindGraphs, ...]) -> None:
    assert graphs[0].labels is not None
    with pytest.raises(GraphError, match="expected layers that can be fp16, got none"):
        to_half(graphs[0].labels, tissue_like(1))


def test_control_flow_is_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", [TILE], ["same"])], "branch", [], [helper.make_tensor_value_info("same", 2, None)]
    )
    node = helper.make_node("If", ["condition"], ["OUT"], then_branch=branch, else_branch=branch)
    read, made = ([helper.make_tensor_value_info(name, TensorProto.UINT8, ["batch", 4, 4, 3])] for name in (TILE, "OUT"))
    graph = helper.make_graph([node], "branching", read, made, [helper.make_tensor("condition", TensorProto.BOOL, [], [True])])
    with pytest.raises(GraphError, match="'branching': expected no control flow"):
        to_half(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), np.zeros((1, 4, 4, 3), np.uint8))
