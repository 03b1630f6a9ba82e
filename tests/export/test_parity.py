"""A graph that says something else than its network, or whose rows see each other, must not pass."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.engines import Engine
from export.errors import ParityError
from export.expected import from_graph
from export.figures import ParityReport, write_reports
from export.graphs import KindGraphs, export_kind
from export.layout import KINDS
from export.parity import LIMITS, check_labels, check_network, figure_of, measure_network
from export.rows import regrouped
from export.runtime import Graph
from export.signature import network_signature
from export.to_onnx import to_onnx
from export.wrapper import SegmentNet
from serving.contract import BACKGROUND, LABELS, PROBABILITIES, TILE
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, Coupled, SmallClassifier, SmallSegmenter, tissue_like
from training.segmenter import Segmenter, SegmenterConfig

pytestmark = pytest.mark.slow

TILES = tissue_like(8)
SMALL = dataclasses.replace(DEMO, tile_px=64)
SMALL_TILES = tissue_like(8, tile_px=64)


def perturbed(model: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray], prefix: str = "network.") -> onnx.ModelProto:
    """The graph with its largest weight of that prefix changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = [tensor for tensor in copy.graph.initializer if tensor.name.startswith(prefix)]
    largest = max(weights, key=lambda tensor: int(np.prod(tensor.dims)))
    array = change(numpy_helper.to_array(largest)).astype(np.float32)
    largest.CopyFrom(numpy_helper.from_array(array, largest.name))
    return copy


def test_reports_hold_every_figure_within_its_limit(graphs: tuple[KindGraphs, ...]) -> None:
    reports = [report for kind in graphs for report in kind.reports]
    lanes = [(report.graph, report.engine) for report in reports]
    of_networks, of_rules = ("onnxruntime", "openvino", "tensorrt"), ("onnxruntime", "openvino")
    expected = [
        (f"{kind}_{part}", name) for kind in KINDS for part, names in (("net", of_networks), ("labels", of_rules)) for name in names
    ]
    assert lanes == expected
    measured = {figure.name for report in reports if report.engine == "onnxruntime" for figure in report.figures}
    assert measured == {name for name in LIMITS if not name.startswith("canary")}
    assert not any(report.failures for report in reports)
    for report in reports:  # an engine has figures or a reason, never neither
        assert bool(report.figures) != bool(report.not_run)
    written = json.loads(write_reports(reports))["reports"]
    assert (written[0]["tiles"], written[0]["engine"], written[0]["reference"]) == (8, "onnxruntime", "torch")
    assert written[0]["figures"][0]["limit"] == "<= 0.001"


def test_the_embedded_answer_is_the_same_bit_for_bit_in_every_batch(graphs: tuple[KindGraphs, ...]) -> None:
    """On this processor ONNX Runtime's rows are equal to the bit; the limits leave room for others."""
    figures = {figure.name: figure.value for figure in graphs[0].reports[0].figures}
    assert (figures["rows_logits_max_abs"], figures["equal_rows_max_abs"], figures["rows_label_agreement"]) == (0, 0, 1)


def test_an_engine_that_is_not_there_is_named_with_the_reason(graphs: tuple[KindGraphs, ...]) -> None:
    absent = Engine("nowhere", Graph, lambda model: "nobody installed it")
    expected = from_graph("segment", graphs[0].net, TILES)
    report = measure_network("segment", graphs[0].net, expected, TILES, SEGMENT_CELL_PX, absent)
    assert (report.engine, report.figures, report.not_run) == ("nowhere", (), "nobody installed it")
    assert report.to_dict()["not_run"] == "nobody installed it"


def test_limits_are_wider_where_precision_is_lower() -> None:
    assert [figure_of("label_agreement", 0.996, precision).is_within for precision in ("fp32", "fp16", "int8")] == [False, True, True]
    assert [figure_of("logits_max_abs", 0.5, precision).limit for precision in ("fp32", "fp16", "int8")] == ["<= 0.001", "none", "none"]
    assert not figure_of("logits_max_abs", np.nan, "int8").is_within  # not judged, but not a number is no answer
    for precision in ("fp32", "fp16", "int8"):  # the rule is exact whatever the network's precision
        assert not figure_of("label_rule_agreement", 0.9999, precision).is_within


def test_every_batch_size_is_asked_with_duplicates_noise_and_repeats() -> None:
    batches = list(regrouped(SMALL_TILES))
    assert {len(batch.tiles) for batch in batches} == {1, 2, 3, 7, 8, 16}
    for batch in batches:
        for row in batch.rows:
            np.testing.assert_array_equal(batch.tiles[row], SMALL_TILES[batch.sources[row]])
        shuffled = batch.kind == "shuffled tiles"
        assert len(batch.rows) == (len(batch.tiles) if shuffled else 1)
        if shuffled and len(batch.tiles) > 1:
            assert batch.sources[0] == batch.sources[-1]


@pytest.mark.parametrize("scale", [1.01, 1.5])
def test_other_weights_are_refused(graphs: tuple[KindGraphs, ...], scale: float) -> None:
    for kind, network, cell_px in zip(graphs, (SmallSegmenter(), SmallClassifier()), (SEGMENT_CELL_PX, CAM_CELL_PX), strict=True):
        with pytest.raises(ParityError, match=r"logits_max_abs = .*Nothing was published"):
            check_network(kind.kind, network, perturbed(kind.net, lambda weight: weight * scale), DEMO, cell_px, TILES)


def test_not_a_number_is_refused(graphs: tuple[KindGraphs, ...]) -> None:
    with pytest.raises(ParityError, match="logits_max_abs = nan"):
        check_network("cam", SmallClassifier(), perturbed(graphs[1].net, lambda weight: weight * np.nan), DEMO, CAM_CELL_PX, TILES)


def test_wrong_normalization_is_refused(graphs: tuple[KindGraphs, ...]) -> None:
    off = perturbed(graphs[0].net, lambda mean: mean + 1, prefix="normalize.mean")
    with pytest.raises(ParityError, match="logits_max_abs"):
        check_network("segment", SmallSegmenter(), off, DEMO, SEGMENT_CELL_PX, TILES)


def test_rows_that_see_their_neighbors_are_refused() -> None:
    with pytest.raises(ParityError, match=r"rows_logits_max_abs = .*rows_label_agreement"):
        export_kind("segment", Coupled(SmallSegmenter()), DEMO, SEGMENT_CELL_PX, TILES)


def test_a_row_that_sees_only_the_first_row_is_refused() -> None:
    class Leak(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = SmallSegmenter()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.network(images)
            return logits + 0.01 * (logits[:1] - logits)  # exact for every batch of one

    with pytest.raises(ParityError, match="rows_logits_max_abs"):
        export_kind("segment", Leak(), DEMO, SEGMENT_CELL_PX, TILES)


DECODERS = {
    "unetplusplus": SegmenterConfig("test_resnet", (1, 2), 4, 8, "unetplusplus", image_px=64),
    "unetplusplus, scse, no background": SegmenterConfig(
        "test_resnet", (1, 2), 4, 16, "unetplusplus", image_px=64, has_background=False, attention="scse"
    ),
    "pspnet": SegmenterConfig("test_resnet", (1,), 4, 16, "pspnet", image_px=64),
    "pspnet, no background": SegmenterConfig("test_resnet", (1, 2), 4, 16, "pspnet", image_px=64, has_background=False),
    "unetplusplus of five stages": SegmenterConfig("test_resnet", (0, 1, 2, 3, 4), 4, 16, "unetplusplus", image_px=64, attention="scse"),
    "pspnet on resnet38": SegmenterConfig("resnet38", (2,), 4, 16, "pspnet", image_px=64, has_background=False),
    "unetplusplus on swin": SegmenterConfig("swin_tiny_patch4_window7_224", (0, 1, 2), 4, 8, "unetplusplus", image_px=64),
}
FAST = ("unetplusplus, scse, no background", "pspnet, no background")


@pytest.mark.parametrize("name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS])
def test_decoders_keep_parity_and_rows_apart(name: str) -> None:
    config = DECODERS[name]
    torch.manual_seed(0)
    network = Segmenter(config).eval()
    with torch.no_grad():  # decided enough that labels are not all of one class
        network.head.weight.div_(network(torch.randn(4, 3, 64, 64)).std() / 2)
    graphs = export_kind("segment", network, SMALL, network.cell_px, SMALL_TILES)  # compares with torch, and rows among each other
    operators = {node.op_type for node in graphs.net.graph.node}
    assert graphs.cell_px == (8 if name in ("pspnet, no background", "pspnet on resnet38") else 4)
    assert not operators & {"Shape", "Gather", "GatherND", "Where"}
    answer = Graph(graphs.net).run({TILE: SMALL_TILES})
    assert len(np.unique(answer[LABELS])) > 1  # else the comparison says little
    if config.has_background:
        return
    assert not answer[PROBABILITIES][:, 0].any()
    assert answer[LABELS].min() >= 1
    background = np.zeros((8, 64, 64), np.uint8)
    background[:, :32] = 1
    assert graphs.labels is not None
    combined = Graph(graphs.labels).run({"NET_" + PROBABILITIES: answer[PROBABILITIES], BACKGROUND: background})
    half = 32 // graphs.cell_px
    assert (combined[PROBABILITIES][:, 0, :half] == 255).all()
    np.testing.assert_array_equal(combined[PROBABILITIES][:, :, half:], answer[PROBABILITIES][:, :, half:])


def test_a_background_in_the_wrong_channel_is_refused() -> None:
    """The zeros of a network without background belong into channel 0: behind the classes, every class would have the wrong name."""
    network = SmallSegmenter(has_background=False)
    net = to_onnx(SegmentNet(network, DEMO.normalization, SEGMENT_CELL_PX), network_signature("segment", DEMO, SEGMENT_CELL_PX))
    joins = [node for node in net.graph.node if node.op_type == "Concat"]
    assert len(joins) == 1
    zeros, classes = joins[0].input
    joins[0].input[:] = [classes, zeros]
    with pytest.raises(ParityError, match="probability_max_levels"):
        check_network("segment", network, net, DEMO, SEGMENT_CELL_PX, TILES)


def test_batch_statistics_are_not_used() -> None:
    network = SmallSegmenter()
    network.train()  # as a trainer may leave it
    assert not export_kind("segment", network, DEMO, SEGMENT_CELL_PX, TILES).reports[0].failures


def test_a_combine_graph_that_is_off_by_one_level_is_refused(graphs: tuple[KindGraphs, ...]) -> None:
    segment = graphs[0]
    assert segment.labels is not None
    off = onnx.ModelProto()
    off.CopyFrom(segment.labels)
    divisors = [tensor for tensor in off.graph.initializer if numpy_helper.to_array(tensor).tolist() in (255, [255])]
    for divisor in divisors:
        divisor.CopyFrom(numpy_helper.from_array(np.array(254.0, dtype=np.float32), divisor.name))
    assert divisors
    answer = Graph(segment.net).run({TILE: TILES})
    with pytest.raises(ParityError, match="combined_max_abs"):
        check_labels("segment", off, answer, TILES, SEGMENT_CELL_PX)


def test_too_few_tiles_are_refused(graphs: tuple[KindGraphs, ...]) -> None:
    with pytest.raises(ParityError, match="at least 8 tiles to compare on, got 3"):
        check_network("cam", SmallClassifier(), graphs[1].net, DEMO, CAM_CELL_PX, TILES[:3])


def test_a_report_lists_what_failed_and_only_that() -> None:
    report = ParityReport("cam_net", 8, (figure_of("label_agreement", 0.5), figure_of("scores_max_abs", 0.0)))
    with pytest.raises(ParityError, match=r"cam_net.*label_agreement = 0.5, expected >= 0.999\. Nothing") as caught:
        report.require()
    assert "scores" not in str(caught.value)
