"""The exported files: what they hold, what they must not, and that ONNX Runtime says what torch says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.errors import GraphError
from export.graphs import KindGraphs, export_kind
from export.runtime import LOGITS, Graph, expose_logits
from export.signature import network_signature
from export.to_onnx import OPSET, check_graph, to_onnx
from export.wrapper import CamNet, SegmentNet
from serving.contract import LABELS, PROBABILITIES, SCORES, TILE
from serving.tasks import IMAGENET
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, Misnamed, SmallClassifier, SmallSegmenter, tissue_like

SIGNATURE = network_signature("segment", DEMO, SEGMENT_CELL_PX)


class Sampling(nn.Module):
    """A network with the operator that TensorRT gets wrong."""

    def forward(self, images: Tensor) -> Tensor:
        grid = torch.zeros(images.shape[0], 56, 56, 2)
        return functional.grid_sample(images, grid, align_corners=False).repeat(1, 2, 1, 1)[:, :5]


@pytest.fixture(scope="module")
def graph_without_background() -> KindGraphs:
    return export_kind("segment", SmallSegmenter(has_background=False), DEMO, SEGMENT_CELL_PX, tissue_like(8))


def all_models(graphs: tuple[KindGraphs, ...]) -> list[onnx.ModelProto]:
    return [model for kind in graphs for model in (kind.net, kind.labels) if model is not None]


def test_graphs_keep_the_rules_of_every_lane(graphs: tuple[KindGraphs, ...]) -> None:
    models = all_models(graphs)
    assert len(models) == 4
    for model in models:
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
        for tensor in (*model.graph.input, *model.graph.output):
            dims = tensor.type.tensor_type.shape.dim
            assert [dim.dim_param for dim in dims] == ["batch"] + [""] * (len(dims) - 1)


def test_uint8_is_cast_first_and_last(graphs: tuple[KindGraphs, ...]) -> None:
    for model in all_models(graphs):
        uint8_inputs = {tensor.name for tensor in model.graph.input if tensor.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
        uint8_outputs = {tensor.name for tensor in model.graph.output if tensor.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
        readers = [node for node in model.graph.node if uint8_inputs & set(node.input)]
        writers = [node for node in model.graph.node if uint8_outputs & set(node.output)]
        assert {node.op_type for node in (*readers, *writers)} == {"Cast"}
        types = {value.name: value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(model).graph.value_info}
        assert {types[node.input[0]] for node in writers} == {onnx.TensorProto.FLOAT}  # not int64 → uint8


def test_files_hold_no_path_of_the_exporting_machine(graphs: tuple[KindGraphs, ...]) -> None:
    for model in all_models(graphs):
        content = model.SerializeToString()
        assert str(Path(__file__).parents[2]).encode() not in content
        assert not re.search(rb"site-packages|\.py\b", content)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_runtime_says_what_torch_says(graphs: tuple[KindGraphs, ...], batch: int) -> None:
    tiles = tissue_like(batch, seed=batch)
    segment, cam = graphs
    wrappers = (SegmentNet(SmallSegmenter(), IMAGENET, SEGMENT_CELL_PX), CamNet(SmallClassifier(), IMAGENET, CAM_CELL_PX))
    for wrapper, kind in zip(wrappers, (segment, cam), strict=True):
        with torch.inference_mode():
            expected = [output.numpy() for output in wrapper(torch.from_numpy(tiles))]
        answer = list(Graph(kind.net).run({TILE: tiles}).values())
        for got, want in zip(answer, expected, strict=True):
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            np.testing.assert_allclose(got.astype(float), want.astype(float), atol=1e-5 if want.dtype.kind == "f" else 1)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_onnx_runtime_says_what_torch_says_without_background(graph_without_background: KindGraphs, batch: int) -> None:
    tiles = tissue_like(batch, seed=batch)
    with torch.inference_mode():
        labels, levels = SegmentNet(SmallSegmenter(has_background=False), IMAGENET, SEGMENT_CELL_PX)(torch.from_numpy(tiles))
    answer = Graph(graph_without_background.net).run({TILE: tiles})
    assert answer[PROBABILITIES].shape == (batch, 5, 56, 56)
    assert not answer[PROBABILITIES][:, 0].any()
    assert np.abs(answer[PROBABILITIES].astype(int) - levels.numpy()).max() <= 1
    assert (answer[LABELS] == labels.numpy()).mean() > 0.999
    assert answer[LABELS].min() == 1


def test_without_background_the_graph_keeps_the_rules_too(graph_without_background: KindGraphs) -> None:
    net = graph_without_background.net
    check_graph(net, SIGNATURE)  # C + 1 channels, as ever
    assert not {node.op_type for node in net.graph.node} & {"Shape", "Gather", "ConstantOfShape", "Where"}


@pytest.mark.parametrize("has_background", [True, False])
def test_a_network_that_misnames_its_background_is_refused(has_background: bool) -> None:
    network = Misnamed(SmallSegmenter(has_background=has_background))
    with pytest.raises(GraphError, match=r"expected the outputs .*PROBABILITIES', 2, \('batch', 5, 56, 56\)"):
        to_onnx(SegmentNet(network, IMAGENET, SEGMENT_CELL_PX), SIGNATURE)


def test_exposed_logits_are_the_networks(graphs: tuple[KindGraphs, ...]) -> None:
    tiles = tissue_like(2)
    exposed = Graph(expose_logits(graphs[0].net, PROBABILITIES, "Softmax")).run({TILE: tiles})
    levels = np.rint(torch.from_numpy(exposed[LOGITS]).softmax(1).numpy() * 255)
    np.testing.assert_array_equal(levels, exposed[PROBABILITIES])
    assert LOGITS not in {output.name for output in graphs[0].net.graph.output}


def test_exposing_logits_without_their_activation_is_refused(graphs: tuple[KindGraphs, ...]) -> None:
    with pytest.raises(GraphError, match="expected a Softmax behind SCORES"):
        expose_logits(graphs[1].net, SCORES, "Softmax")


def test_grid_sample_is_refused() -> None:
    with pytest.raises(GraphError, match="expected no GridSample"):
        to_onnx(SegmentNet(Sampling(), IMAGENET, SEGMENT_CELL_PX), SIGNATURE)


def test_a_grid_of_another_size_is_refused() -> None:
    with pytest.raises(GraphError, match=r"expected the outputs .*28"):
        to_onnx(SegmentNet(SmallSegmenter(), IMAGENET, SEGMENT_CELL_PX), network_signature("segment", DEMO, 8))


def test_a_network_that_torch_cannot_export_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :, :56, :56] if images.sum() > 0 else images

    with pytest.raises(GraphError, match="torch cannot export it"):
        to_onnx(SegmentNet(Branching(), IMAGENET, SEGMENT_CELL_PX), SIGNATURE)


def test_check_graph_refuses_what_breaks_a_rule(graphs: tuple[KindGraphs, ...]) -> None:
    def damaged() -> onnx.ModelProto:
        copy = onnx.ModelProto()
        copy.CopyFrom(graphs[0].net)
        return copy

    check_graph(damaged(), SIGNATURE)
    model = damaged()
    model.opset_import[0].version = 20
    with pytest.raises(GraphError, match="opset 18 alone"):
        check_graph(model, SIGNATURE)
    model = damaged()
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(GraphError, match="external data"):
        check_graph(model, SIGNATURE)
    model = damaged()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    with pytest.raises(GraphError, match=r"expected the inputs .*'height'"):
        check_graph(model, SIGNATURE)
    model = damaged()
    model.graph.node[-1].input[0] = "nowhere"
    with pytest.raises(GraphError, match="checker refuses"):
        check_graph(model, SIGNATURE)
    assert {output.name for output in model.graph.output} == {LABELS, PROBABILITIES}
