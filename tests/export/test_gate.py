"""Graphs that are wrong on purpose: each test says which figure or rule catches it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from export.cli import main
from export.errors import GraphError
from export.expected import from_torch
from export.parity import measure_network
from export.signature import network_signature
from export.to_onnx import check_folded, check_graph, to_onnx
from export.wrapper import SegmentNet
from tests.export.networks import DEMO, SEGMENT_CELL_PX, SmallSegmenter, tissue_like
from training.checkpoint import Checkpoint, save
from training.segmenter import Segmenter, SegmenterConfig

pytestmark = pytest.mark.slow

TASK = dataclasses.replace(DEMO, tile_px=64)
TILES = tissue_like(8, tile_px=64)
SIGNATURE = network_signature("segment", TASK, SEGMENT_CELL_PX)


def exported(network: nn.Module) -> onnx.ModelProto:
    return to_onnx(SegmentNet(network, TASK.normalization, SEGMENT_CELL_PX), SIGNATURE)


def failing(model: onnx.ModelProto, network: nn.Module) -> set[str]:
    """The figures outside their limits when the graph is held against the network."""
    expected = from_torch("segment", network, TASK, SEGMENT_CELL_PX, TILES)
    return {figure.name for figure in measure_network("segment", model, expected, TILES, SEGMENT_CELL_PX).failures}


@pytest.fixture(scope="module")
def right() -> onnx.ModelProto:
    return exported(SmallSegmenter())


@pytest.fixture
def model(right: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(right)
    return copy


def weight(model: onnx.ModelProto, prefix: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name.startswith(prefix))


def change(tensor: onnx.TensorProto, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), tensor.name))


def test_the_right_graph_passes(model: onnx.ModelProto) -> None:
    assert failing(model, SmallSegmenter()) == set()


def test_swapped_channels(model: onnx.ModelProto) -> None:
    """BGR for RGB: the first convolution reads its input channels in reverse."""
    first = next(tensor for tensor in model.graph.initializer if list(tensor.dims)[1:] == [3, 7, 7])
    change(first, lambda kernel: kernel[:, ::-1])
    found = failing(model, SmallSegmenter())
    assert {"logits_max_abs", "label_agreement", "probability_max_levels"} <= found
    assert not found & {"rows_logits_max_abs", "rows_label_agreement", "label_rule_agreement"}  # it is wrong in every batch alike


def test_wrong_normalization(model: onnx.ModelProto) -> None:
    """The mean of another data set: labels hardly move, logits tell."""
    change(weight(model, "normalize.mean"), lambda mean: mean + np.float32(2))
    assert "logits_max_abs" in failing(model, SmallSegmenter())


class BatchCoupled(nn.Module):
    """Normalizes by the statistics of the batch, as a network left in training mode does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallSegmenter()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        mean = logits.mean(dim=(0, 2, 3), keepdim=True)
        return (logits - mean) / (logits - mean).square().mean(dim=(0, 2, 3), keepdim=True).add(1e-5).sqrt()


def test_batch_coupled_normalization() -> None:
    network = BatchCoupled()
    assert {"rows_logits_max_abs", "rows_label_agreement"} <= failing(exported(network), network)


def test_rows_that_differ_although_their_tiles_are_the_same(model: onnx.ModelProto) -> None:
    """Adds to each row its index: what a wrong window partition does at one batch size shows between equal rows of any."""
    graph = model.graph
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    logits = softmax.input[0]
    softmax.input[0] = "leaned"
    constants = {
        "axis": np.array(0),
        "tenth": np.array(0.1, np.float32),
        "channel": np.array([1, 0, 0, 0, 0], np.float32).reshape(1, 5, 1, 1),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    added = [
        helper.make_node("Mul", [logits, "channel"], ["chosen"]),
        helper.make_node("CumSum", ["chosen", "axis"], ["summed"], exclusive=1),
        helper.make_node("Mul", ["summed", "tenth"], ["lean"]),
        helper.make_node("Add", [logits, "lean"], ["leaned"]),
    ]
    at = list(graph.node).index(softmax)
    nodes = [*graph.node[:at], *added, *graph.node[at:]]
    del graph.node[:]
    graph.node.extend(nodes)
    assert {"equal_rows_max_abs", "rows_logits_max_abs"} <= failing(model, SmallSegmenter())


def test_a_resize_that_is_aligned_otherwise(model: onnx.ModelProto) -> None:
    """Corners for half pixels: PROBABILITIES are right, and the labels are shifted against them."""
    (resize,) = [node for node in model.graph.node if node.op_type == "Resize"]
    mode = next(attribute for attribute in resize.attribute if attribute.name == "coordinate_transformation_mode")
    assert mode.s in (b"half_pixel", b"pytorch_half_pixel")
    mode.s = b"asymmetric"
    assert failing(model, SmallSegmenter()) == {"label_agreement", "label_rule_agreement"}


def test_a_frozen_batch(model: onnx.ModelProto) -> None:
    """A window partition traced with a batch of two: every shape is right on paper."""
    graph = model.graph
    softmax = next(node for node in graph.node if node.op_type == "Softmax")
    graph.initializer.append(numpy_helper.from_array(np.array([2, 5, 16, 16]), "frozen"))
    at = list(graph.node).index(softmax)
    reshape = helper.make_node("Reshape", [softmax.input[0], "frozen"], ["windows"], name="frozen_partition")
    softmax.input[0] = "windows"
    nodes = [*graph.node[:at], reshape, *graph.node[at:]]
    del graph.node[:]
    graph.node.extend(nodes)
    with pytest.raises(GraphError, match=r"cannot run it on TILE \[8, 64, 64, 3\].*frozen_partition"):
        failing(model, SmallSegmenter())


def test_a_module_with_a_frozen_batch() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SmallSegmenter()

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.network(images)
            return logits.reshape(2, *logits.shape[1:])

    with pytest.raises(
        GraphError, match=r"expected the inputs \[\('TILE', 2, \('batch', 64, 64, 3\)\)\], got \[\('TILE', 2, \(2, 64, 64, 3\)\)\]"
    ):
        exported(Frozen())


def sampling(opset: int) -> onnx.ModelProto:
    """A graph with the signature of a segmenter and GridSample inside, in that opset."""
    tensors = [SIGNATURE.inputs[0], *SIGNATURE.outputs]
    values = [helper.make_tensor_value_info(tensor.name, onnx.TensorProto.UINT8, ["batch", *tensor.dims]) for tensor in tensors]
    nodes = [
        helper.make_node("GridSample", ["image", "grid"], ["sampled"], name="deformable", mode="linear" if opset >= 20 else "bilinear")
    ]
    graph = helper.make_graph(nodes, "sampling", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_grid_sample_of_opset_20() -> None:
    with pytest.raises(GraphError, match=r"expected the standard operators of opset 18 alone, got \[\('', 20\)\]"):
        check_graph(sampling(20), SIGNATURE)
    with pytest.raises(GraphError, match=r"expected no GridSample .* got one at 'deformable'"):
        check_graph(sampling(18), SIGNATURE)


def test_a_shape_computed_at_run_time(model: onnx.ModelProto) -> None:
    check_folded(model)
    model.graph.node.append(helper.make_node("Shape", ["TILE"], ["shape"], name="residue"))
    with pytest.raises(GraphError, match="expected no shape to be computed at run time, got Shape at 'residue'"):
        check_folded(model)


def test_another_dynamic_axis_inside(model: onnx.ModelProto) -> None:
    model.graph.value_info[0].type.tensor_type.shape.dim[1].dim_param = "u0"
    with pytest.raises(GraphError, match=r"expected 'batch' to be the only dynamic axis, got \['u0'\]"):
        check_graph(model, SIGNATURE)


def test_an_activation_beyond_half_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """fp32 keeps parity; fp16 would be infinite on a GPU, and a CPU would not show it."""
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig("test_resnet", (1, 2), num_classes=4, width=8, image_px=64)).eval()
    with torch.no_grad():  # 1e5 times as large inside, and back again before the end: logits as before
        network.decoder.get_submodule("smooth.1").get_parameter("weight").mul_(1e5)
        network.head.weight.div_(1e5)
    save(tmp_path / "checkpoint.pt", Checkpoint(TASK, "pscl", None, network, {}))
    arguments = [str(tmp_path / "checkpoint.pt"), "--repository", str(tmp_path / "repository")]
    assert main([*arguments, "--precision", "fp16"]) == 1
    error = capsys.readouterr().err
    assert "expected every fp16 tensor below 16000 in fp32" in error
    assert not (tmp_path / "repository").exists()
    assert main(arguments) == 0
