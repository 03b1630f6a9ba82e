"""Images in memory through the slide pipeline: the mask is known to the pixel."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.predict import predict_evidence, predict_labels, predict_tiles, to_label_scale, to_model_scale
from serving.contract import SCORES, Kind
from tests.clients.painted import paint, stripes

from .painted_model import PaintedModel


@pytest.mark.parametrize("kind", ["segment", "cam"])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
@pytest.mark.parametrize("shape", [(300, 411), (40, 30), (64, 200)])
def test_labels_are_the_painting(kind: Kind, overlap: float, shape: tuple[int, int]) -> None:
    truth = stripes(shape, margin=0)
    np.testing.assert_array_equal(predict_labels(paint(truth), PaintedModel(kind), 0.5, overlap), truth)


def test_another_scale_is_met_and_the_labels_come_back_in_the_image_s_pixels() -> None:
    truth = stripes((240, 320))
    twice = truth.repeat(2, axis=0).repeat(2, axis=1)
    labels = predict_labels(paint(twice), PaintedModel(), 0.25)
    assert labels.shape == twice.shape
    assert (labels == twice).mean() > 0.97  # edges are mixed where two colors are averaged into one pixel


def test_within_one_percent_pixels_are_used_as_they_are() -> None:
    rgb = paint(stripes((100, 130)))
    assert to_model_scale(rgb, 0.5024, 0.5) is rgb
    assert to_model_scale(rgb, 0.25, 0.5).shape == (50, 65, 3)
    assert to_label_scale(stripes((100, 130)), 1.0, 0.5).shape == (200, 260)


def test_half_overlap_looks_at_every_place_twice_in_each_direction() -> None:
    model = PaintedModel()
    predict_labels(paint(stripes((256, 256), margin=0)), model, 0.5)
    assert model.tiles == 8 * 8  # 16 cells a tile, stride 8, halo 4: reach 8, 64 cells


def test_evidence_covers_the_image_and_adds_up() -> None:
    evidence = predict_evidence(paint(stripes((128, 200), margin=0)), PaintedModel(), 0.5)
    assert evidence.shape == (5, 32, 50)
    np.testing.assert_allclose(evidence.sum(axis=0), 1, atol=1e-5)


def test_tiles_lie_side_by_side() -> None:
    truth = stripes((150, 200), margin=0)
    answers = list(predict_tiles(paint(truth), PaintedModel("cam"), 0.5))
    assert [(rows.start, columns.start) for (rows, columns), _ in answers] == [(y, x) for y in (0, 64) for x in (0, 64, 128)]
    for place, outputs in answers:
        present = [bool((truth[place] == index).any()) for index in range(1, 5)]
        assert (outputs[SCORES] > 0.5).tolist() == present
