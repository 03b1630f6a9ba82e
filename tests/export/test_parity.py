"""A graph that says something else than its network, or whose rows see each other, must not pass."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from export.errors import ParityError
from export.graphs import KindGraphs, export_kind
from export.parity import LIMITS, Figure, ParityReport, check_labels, check_network, write_reports
from export.runtime import Graph
from serving.contract import TILE
from tests.export.networks import CAM_CELL_PX, DEMO, SEGMENT_CELL_PX, Coupled, SmallClassifier, SmallSegmenter, tissue_like

TILES = tissue_like(8)


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
    assert [report.graph for report in reports] == ["segment_net", "segment_labels", "cam_net", "cam_labels"]
    assert {figure.name for report in reports for figure in report.figures} == set(LIMITS)
    assert not any(report.failures for report in reports)
    written = json.loads(write_reports(reports))["reports"]
    assert written[0]["tiles"] == 8
    assert written[0]["figures"][0]["limit"] == "<= 0.001"


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
        check_labels("segment", off, answer, SEGMENT_CELL_PX)


def test_too_few_tiles_are_refused(graphs: tuple[KindGraphs, ...]) -> None:
    with pytest.raises(ParityError, match="at least 8 tiles to compare on, got 3"):
        check_network("cam", SmallClassifier(), graphs[1].net, DEMO, CAM_CELL_PX, TILES[:3])


def test_a_report_lists_what_failed_and_only_that() -> None:
    report = ParityReport("cam_net", 8, (Figure("label_agreement", 0.5), Figure("scores_max_abs", 0.0)))
    with pytest.raises(ParityError, match=r"cam_net.*label_agreement = 0.5, expected >= 0.999\. Nothing") as caught:
        report.require()
    assert "scores" not in str(caught.value)
