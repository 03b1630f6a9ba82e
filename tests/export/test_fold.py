"""What a graph computes from weights or from the batch's size alone becomes a constant, and nothing else changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from export.fold import batch_multiple, fold
from export.runtime import Graph
from export.signature import network_signature
from export.to_onnx import to_onnx
from export.wrapper import CamNet, SegmentNet
from serving.contract import TILE
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, SmallClassifier, SmallSegmenter, tissue_like
from training.segmenter import Segmenter, SegmenterConfig

Array = np.ndarray


def graph_of(nodes: list[onnx.NodeProto], weights: dict[str, Array], notes: dict[str, list[int | str]], rank: int = 3) -> onnx.ModelProto:
    """x (batch, 4, 6) → y; `notes` are the dimensions that torch would write beside the tensors between."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"side{axis}" for axis in range(rank)])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in notes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def folded(model: onnx.ModelProto) -> Counter[str]:
    """Operators after folding; the answers stay as they were, for several batches."""
    before = Graph(model)
    inputs = [np.random.default_rng(batch).normal(size=(batch, 4, 6)).astype(np.float32) for batch in (1, 2, 5)]
    expected = [before.run({"x": x})["y"] for x in inputs]
    fold(model)
    onnx.checker.check_model(model, full_check=True)
    after = Graph(model)
    for x, want in zip(inputs, expected, strict=True):
        np.testing.assert_array_equal(after.run({"x": x})["y"], want)
    return Counter(node.op_type for node in model.graph.node)


def batch_size() -> list[onnx.NodeProto]:
    return [helper.make_node("Shape", ["x"], ["size"], start=0, end=1)]


def test_a_reshape_to_the_batch() -> None:
    nodes = [
        *batch_size(),
        helper.make_node("Concat", ["size", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    assert folded(graph_of(nodes, {"rest": np.array([24])}, {}, rank=2)) == {"Reshape": 1}


def test_windows_of_the_batch() -> None:
    """Swin's partition: 2 windows per image, so that the leading axis is a multiple of the batch."""
    nodes = [
        *batch_size(),
        helper.make_node("Mul", ["size", "two"], ["windows"]),
        helper.make_node("Concat", ["windows", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    assert folded(graph_of(nodes, {"two": np.array([2]), "rest": np.array([2, 6])}, {})) == {"Reshape": 1}


def test_a_position_that_is_expanded_to_the_batch_becomes_one_row() -> None:
    weights = {"position": np.arange(24, dtype=np.float32).reshape(1, 4, 6), "rest": np.array([4, 6])}
    nodes = [
        *batch_size(),
        helper.make_node("Concat", ["size", "rest"], ["shape"], axis=0),
        helper.make_node("Expand", ["position", "shape"], ["expanded"]),
        helper.make_node("Sin", ["expanded"], ["wave"]),
        helper.make_node("Add", ["x", "wave"], ["y"]),
    ]
    model = graph_of(nodes, weights, {"expanded": ["batch", 4, 6], "wave": ["batch", 4, 6]})
    assert folded(model) == {"Add": 1}
    (constant,) = model.graph.initializer
    assert list(constant.dims) == [1, 4, 6]


def test_what_needs_the_batch_itself_stays() -> None:
    """Concat does not broadcast: one row would be wrong for every other batch."""
    weights = {"position": np.ones((1, 4, 6), np.float32), "rest": np.array([4, 6])}
    nodes = [
        *batch_size(),
        helper.make_node("Concat", ["size", "rest"], ["shape"], axis=0),
        helper.make_node("Expand", ["position", "shape"], ["expanded"]),
        helper.make_node("Concat", ["x", "expanded"], ["y"], axis=2),
    ]
    assert folded(graph_of(nodes, weights, {"expanded": ["batch", 4, 6]}))["Shape"] == 1


def test_two_rows_that_differ_stay() -> None:
    """A row that counts along the batch is no constant."""
    weights = {"zero": np.array(0), "one": np.array(1)}
    nodes = [
        helper.make_node("Shape", ["x"], ["size"], start=0, end=1),
        helper.make_node("Squeeze", ["size"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["numbers"]),
        helper.make_node("Cast", ["numbers"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "column"], ["rows"]),
        helper.make_node("Add", ["x", "rows"], ["y"]),
    ]
    model = graph_of(nodes, {**weights, "column": np.array([-1, 1, 1])}, {"rows": ["batch", 1, 1]})
    assert folded(model)["Range"] == 1


def test_a_resize_to_a_size_becomes_one_by_a_factor() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SmallSegmenter()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network(images)
            small = functional.avg_pool2d(logits, 2)
            return functional.interpolate(small, size=logits.shape[2:], mode="bilinear", align_corners=False)

    net = to_onnx(SegmentNet(Pyramid(), DEMO.normalization, SEGMENT_CELL_PX), network_signature("segment", DEMO, SEGMENT_CELL_PX))
    resizes = [node for node in net.graph.node if node.op_type == "Resize"]
    weights = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in net.graph.initializer}
    assert [weights[node.input[2]] for node in resizes] == [[1, 1, 2, 2], [1, 1, 4, 4]]
    assert all(len(node.input) == 3 for node in resizes)


def test_a_cam_graph_has_no_shape_left() -> None:
    net = to_onnx(CamNet(SmallClassifier(), DEMO.normalization, CAM_CELL_PX), network_signature("cam", DEMO, CAM_CELL_PX))
    assert not {node.op_type for node in net.graph.node} & {"Shape", "Expand", "ConstantOfShape"}
    assert Graph(net).run({TILE: tissue_like(3)})["CAM"].shape == (3, 4, 14, 14)


@pytest.mark.parametrize(
    ("dim", "multiple"),
    [("batch", 1), ("64*batch", 64), ("batch*4", 4), ("u0", None), ("batch + 1", None), ("batch*batch", None), (7, None)],
)
def test_multiples_of_the_batch(dim: int | str, multiple: int | None) -> None:
    assert batch_multiple(dim) == multiple


NETWORKS = {
    "swin, fpn": (SegmenterConfig("swin_tiny_patch4_window7_224", (0, 1, 2, 3), 4, 64), 640),
    "swinv2, fpn": (SegmenterConfig("swinv2_tiny_window8_256", (0, 1, 2, 3), 4, 64, image_px=256), 740),
    "convnext, fpn": (SegmenterConfig("convnext_tiny", (0, 1, 2, 3), 4, 64), 320),
    "resnet50, mask2former": (SegmenterConfig("resnet50", (1, 2, 3, 4), 4, 256, "mask2former"), 2260),
    "resnet50, unetplusplus": (
        SegmenterConfig("resnet50", (0, 1, 2, 3, 4), 4, 16, "unetplusplus", has_background=False, attention="scse"),
        425,
    ),
    "resnet38, pspnet": (SegmenterConfig("resnet38", (2,), 4, 64, "pspnet", has_background=False), 125),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_hold_no_computed_shape(name: str) -> None:
    """`to_onnx` refuses what computes a shape; what is left of Gather picks a fixed slice of the data."""
    config, most_nodes = NETWORKS[name]
    torch.manual_seed(0)
    network = Segmenter(config).eval()
    task = DEMO if config.image_px == 224 else type(DEMO)(**{**vars(DEMO), "tile_px": config.image_px})
    net = to_onnx(SegmentNet(network, task.normalization, network.cell_px), network_signature("segment", task, network.cell_px))
    constants = {tensor.name for tensor in net.graph.initializer}
    assert all(node.input[1] in constants for node in net.graph.node if node.op_type in ("Gather", "Expand", "Reshape"))
    assert not [node for node in net.graph.node if node.op_type == "GatherND"]
    assert len(net.graph.node) <= most_nodes
