"""Evaluation of a model on annotated images: what is counted, what is not, and the page that shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.errors import EvaluationError
from benchmarks.evaluate_images import TruthImage, evaluate_images
from benchmarks.evaluation_report import write_report
from benchmarks.gates import GateOptions
from benchmarks.report import heat_map
from serving.contract import CAM, SCORES
from tests.clients.painted import paint, stripes
from training.datasets.placement import IGNORE_LABEL

from .painted_model import PaintedModel

Tag = TypeVar("Tag")


def images() -> list[TruthImage]:
    """The second image's truth is wrong on a known stretch, and ignored on another."""
    first, second = stripes((130, 200), margin=0), stripes((128, 128), margin=0)
    truth = second.copy()
    truth[:32] = 4
    truth[32:40] = IGNORE_LABEL
    return [TruthImage("right", paint(first), first), TruthImage("wrong", paint(second), truth)]


def test_confusions_are_the_pixels_that_differ() -> None:
    evaluation = evaluate_images(images(), PaintedModel(), 0.5)
    right, wrong = evaluation.images
    assert np.diag(right.confusion).sum() == right.confusion.sum() == 130 * 200
    painted = stripes((128, 128), margin=0)
    assert wrong.confusion.sum() == 128 * 120
    assert wrong.confusion[4, 1] == (painted[:32] == 1).sum()
    assert evaluation.scores("masked").accuracy == pytest.approx(np.diag(evaluation.confusion)[1:].sum() / evaluation.confusion[1:].sum())
    assert evaluation.classification is None


def test_image_level_scores_come_from_the_tiles_of_models_that_have_them() -> None:
    evaluation = evaluate_images(images()[:1], PaintedModel("cam"), 0.5)
    assert evaluation.classification is not None
    assert evaluation.classification.images == 6
    assert evaluation.classification.micro_f1 == 1


def test_the_model_never_sees_the_truth() -> None:
    """The same images with other truths give the same labels: nothing of a mask reaches the prediction, not even the classes it holds."""
    truths = [np.zeros((130, 200), np.uint8), np.full((130, 200), 3, np.uint8)]
    rgb = paint(stripes((130, 200), margin=0))
    for kind in ("segment", "cam"):
        model = PaintedModel("cam" if kind == "cam" else "segment")
        labels = [evaluate_images([TruthImage("i", rgb, truth)], model, 0.5).images[0].labels for truth in truths]
        np.testing.assert_array_equal(labels[0], labels[1])


def test_the_page_shows_every_image_and_figure(tmp_path: Path) -> None:
    model = PaintedModel("cam")
    evaluation = evaluate_images(images(), model, 0.5)
    write_report(tmp_path / "out" / "report.html", evaluation, images(), PaintedModel(), 0.5, "painted", cam_model=model)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 2 * (
        4 + 4 + 2
    )  # image, truth, prediction, difference, a heat map for every class, and what they say without and with image labels
    assert f"{evaluation.scores('masked').miou:.3f}" in page
    assert "CAM necrosis" in page
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(EvaluationError, match="give another --report"):
        write_report(blocked / "report.html", evaluation, images(), model, 0.5, "painted")


def test_a_heat_map_is_bright_where_the_evidence_is() -> None:
    gray = np.full((40, 60, 3), 100, np.uint8)
    evidence = np.zeros((4, 6), np.float32)
    evidence[:, 3:] = 1
    shown = heat_map(gray, evidence).astype(int)
    assert shown.shape == (40, 60, 3)
    assert shown[:, 50:, 0].min() > shown[:, :10, 0].max() + 80


class Blind(PaintedModel):
    """Sees every class everywhere, equally: only a gate can tell them apart."""

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        for tag, outputs in super().stream(batches, in_flight):
            scores = np.tile(np.array([0.6, 0.7, 0.8, 0.55], np.float32), (len(outputs[SCORES]), 1))
            yield tag, {CAM: np.ones_like(outputs[CAM]), SCORES: scores}


@pytest.mark.parametrize(
    ("gate", "winners"),
    [
        (GateOptions(), [3]),
        (GateOptions("none"), [3]),
        (GateOptions("probability", 0.8), [3]),  # none passes: the best alone
        (GateOptions("oracle"), [1, 2]),
    ],
)
def test_the_oracle_alone_knows_what_truth_has_on_a_tile(gate: GateOptions, winners: list[int]) -> None:
    rgb = paint(np.full((64, 128), 3, np.uint8))
    truth = np.repeat([[1, 2]], 64, axis=1).repeat(64, axis=0).astype(np.uint8)
    evaluation = evaluate_images([TruthImage("i", rgb, truth)], Blind("cam"), 0.5, overlap=0, gate=gate)
    assert np.unique(evaluation.images[0].labels).tolist() == winners


def test_thresholds_of_the_gate() -> None:
    assert GateOptions("logit", 0.5).score == pytest.approx(1 / (1 + np.exp(-0.5)))
    assert GateOptions("probability", 0.8).score == 0.8
    assert GateOptions("none").score < 0
    with pytest.raises(EvaluationError, match=r"between 0 and 1, got 8\.0: the thesis's is 0\.8"):
        GateOptions("probability", 8.0)
