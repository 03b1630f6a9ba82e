"""What a precision costs: figures that are right on graphs whose difference is known, and an int8 that is refused where it does not pay."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from export.errors import ParityError, TilesError
from export.graphs import KindGraphs
from export.int8 import to_int8
from export.precision import ClassIou, PrecisionReport, accept_int8, measure_precision
from export.runtime import LOGITS, Graph, expose_logits
from export.signature import network_signature
from export.speed import Speed, compare, measure_speeds
from export.to_onnx import to_onnx
from export.wrapper import CamNet, SegmentNet
from serving.contract import LABELS, TILE
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, SmallClassifier, SmallSegmenter, tissue_like

pytestmark = pytest.mark.slow

TILES = tissue_like(8)
FAST = Speed(1, 1.5, 1.4, 1.6, 9, "processor", 3.0)
REPORT = PrecisionReport(
    graph="segment_net",
    precision="int8",
    tiles=8,
    bytes_fp32=400,
    bytes_candidate=100,
    figures={"label_agreement": 0.99, "logits_max_abs": 0.2, "logits_abs_max": 7.0},
    reference="truth",
    iou=(ClassIou(1, 0.80, 0.79), ClassIou(3, 0.60, 0.62)),
    speeds=(FAST,),
)


class Thin(nn.Module):
    """Logits (B, 5, 56, 56): nothing to multiply between many operators that int8 has to leave for fp32 and come back from."""

    def __init__(self, depth: int = 24) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Conv2d(16, 5, 1)
        self.body = nn.ModuleList(nn.Conv2d(16, 16, 1, groups=16) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for layer in self.body:
            features = layer(features) * 0.5
        logits: Tensor = self.head(features)
        return logits


def _exported(network: nn.Module) -> onnx.ModelProto:
    return to_onnx(SegmentNet(network, DEMO.normalization, SEGMENT_CELL_PX), network_signature("segment", DEMO, SEGMENT_CELL_PX))


def _exported_cam(network: SmallClassifier) -> onnx.ModelProto:
    return to_onnx(CamNet(network, DEMO.normalization, CAM_CELL_PX), network_signature("cam", DEMO, CAM_CELL_PX))


def _swapped(network: SmallSegmenter) -> SmallSegmenter:
    """Its second and third class exchanged."""
    with torch.no_grad():
        for tensor in list(network.body.parameters())[-2:]:  # weight and bias of the last convolution
            tensor[[2, 3]] = tensor[[3, 2]].clone()
    return network


def test_a_graph_costs_nothing_beside_itself(graphs: tuple[KindGraphs, ...]) -> None:
    for kind, names in zip(graphs, (("probability_max_levels",), ("cam_max_abs", "scores_max_abs")), strict=True):
        report = measure_precision("fp16", kind.net, kind.net, TILES, rounds=0).require()
        assert report.figures["label_agreement"] == 1
        assert [report.figures[name] for name in ("logits_max_abs", *names)] == [0] * (len(names) + 1)
        assert report.figures["logits_abs_max"] > 0
        assert {(entry.fp32, entry.candidate) for entry in report.iou} == {(1.0, 1.0)}
        assert (report.reference, report.miou_loss) == ("fp32 labels", 0)
        assert report.bytes_fp32 == report.bytes_candidate == kind.net.ByteSize()


def test_iou_against_truth_leaves_pixels_without_truth_out(graphs: tuple[KindGraphs, ...]) -> None:
    labels = Graph(graphs[1].net).run({TILE: TILES})[LABELS]
    assert set(labels.ravel().tolist()) == {4}
    truths = labels.copy()
    truths[:, :, :56], truths[:, :, 56:112] = 0, 2
    report = measure_precision("fp16", graphs[1].net, graphs[1].net, TILES, truths, 0)
    assert report.reference == "truth"
    assert [(entry.label, entry.fp32, entry.candidate) for entry in report.iou] == [(2, 0, 0), (4, 112 / 168, 112 / 168)]


def test_exchanged_classes_are_outside_the_limits(graphs: tuple[KindGraphs, ...]) -> None:
    report = measure_precision("fp16", graphs[0].net, _exported(_swapped(SmallSegmenter())), TILES, rounds=0)
    with pytest.raises(ParityError, match=r"fp16 does not agree with fp32 on 8 tiles: label_agreement = 0\.\d+, expected >= 0\.995"):
        report.require()
    assert report.miou_loss > 1


def test_nan_is_outside_the_limits() -> None:
    broken = dataclasses.replace(REPORT, figures={"label_agreement": math.nan})
    with pytest.raises(ParityError, match="label_agreement = nan"):
        broken.require()
    assert json.loads(json.dumps(broken.to_dict(), allow_nan=False))["figures"] == {"label_agreement": None}


def test_classes_that_cross_their_gate_are_counted() -> None:
    classifier = SmallClassifier()
    assert classifier.head.bias is not None
    with torch.no_grad():
        classifier.head.bias[0] += 0.2
    before = _exported_cam(classifier)
    logits = Graph(expose_logits(before, "SCORES", "Sigmoid")).run({TILE: TILES})[LOGITS][:, 0]
    assert (logits > 0).any()
    with torch.no_grad():
        classifier.head.bias[0] -= float(logits.max()) + 0.1  # below 0 on every tile
    report = measure_precision("fp16", before, _exported_cam(classifier), TILES, rounds=0)
    assert report.figures["gates_changed"] == (logits > 0).sum()


def test_a_crossed_gate_is_named_as_the_cause() -> None:
    crossed = dataclasses.replace(REPORT, figures={"label_agreement": 0.9, "gates_changed": 1.0})
    with pytest.raises(ParityError, match=r"label_agreement = 0\.9, expected >= 0\.97\. 1 logits of a class changed their sign"):
        crossed.require()


@pytest.mark.parametrize("truths", [np.zeros((8, 56, 56), np.uint8), np.zeros((7, 224, 224), np.uint8)])
def test_truths_of_another_shape_are_refused(
    graphs: tuple[KindGraphs, ...], truths: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    with pytest.raises(TilesError, match="per tile, a truth of its size"):
        measure_precision("fp16", graphs[0].net, graphs[0].net, TILES, truths, 0)


def test_report_is_json_with_its_limits() -> None:
    written = json.loads(json.dumps(REPORT.to_dict(), allow_nan=False))
    assert written["miou_loss_points"] == pytest.approx(-0.5)
    assert written["limits"] == {"label_agreement": ">= 0.97"}
    assert written["iou"][0] == {"label": 1, "fp32": 0.80, "candidate": 0.79}
    assert written["speeds"][0]["ratio"] == 1.5
    assert json.loads(json.dumps(dataclasses.replace(REPORT, iou=()).to_dict(), allow_nan=False))["miou_loss_points"] is None


def test_int8_that_pays_is_accepted() -> None:
    accept_int8(REPORT, 0.5)
    accept_int8(dataclasses.replace(REPORT, iou=(ClassIou(1, 0.75, 0.5),)), 25)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"speeds": (FAST, Speed(0, 1.1, 0.95, 1.2, 9, "wall", 2.0))}, r"faster than fp32, got 1\.10× \(0\.95…1\.20\) with all threads"),
        ({"speeds": ()}, "faster than fp32, got no measurement"),
        ({"iou": (ClassIou(1, 0.80, 0.79),)}, r"at most 0\.5 points of mean IoU against truth, got 1"),
        ({"iou": ()}, "at most 0.5 points of mean IoU against truth, got nan"),
    ],
)
def test_int8_that_does_not_pay_is_refused_with_its_figures(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ParityError, match=rf"segment_net: int8 is refused: .*{message}"):
        accept_int8(dataclasses.replace(REPORT, **changed), 0.5)  # type: ignore[arg-type]


def test_a_graph_whose_int8_form_is_slower_is_refused() -> None:
    fp32 = _exported(Thin())
    report = measure_precision("int8", fp32, to_int8(fp32, TILES), tissue_like(8, seed=1), rounds=5)
    assert [speed.threads for speed in report.speeds] == [1, 0]
    with pytest.raises(ParityError, match="int8 is refused: expected it to be faster than fp32"):
        accept_int8(report, 100)


def test_speed_is_the_median_ratio_of_neighbors() -> None:
    taken_s = np.array([[4.0, 2.0], [40.0, 10.0], [3.0, 1.0], [5.0, 5.0], [9.0, 2.0]])
    assert compare(taken_s, 1, tiles=10) == Speed(1, ratio=3.0, low=2.0, high=4.0, rounds=5, clock="processor", baseline_ms=500.0)
    assert compare(taken_s[:, ::-1], 0, tiles=10).ratio == pytest.approx(1 / 3)


def test_both_graphs_run_in_every_round_with_one_thread_and_with_all() -> None:
    one, every = measure_speeds(_exported(Thin(2)), _exported(Thin(1)), TILES, 3)
    assert (one.threads, one.clock, one.rounds) == (1, "processor", 3)
    assert (every.threads, every.clock, every.rounds) == (0, "wall", 3)
    assert min(one.low, one.baseline_ms, every.low, every.baseline_ms) > 0
