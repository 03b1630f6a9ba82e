"""Figures 5.1–5.4 on features that are known: classes apart in color, a network that passes colors through."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.errors import EvaluationError
from benchmarks.evaluate_images import TruthImage
from benchmarks.feature_plots import draw_statistics
from benchmarks.feature_statistics import BINS, collect_statistics
from serving.contract import Normalization
from serving.tasks import get_task
from training.checkpoint import Checkpoint
from training.classifier import Classifier, ClassifierConfig


class Averages(Classifier):
    """Features = the mean color of each cell minus 1/2; class k answers to channel k."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(images, self.cell_px) - 0.5

    def classify(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = torch.cat([features, features[:, :1] * 0 - 1], dim=1)
        return maps, maps.mean(dim=(2, 3))


def checkpoint() -> Checkpoint:
    task = dataclasses.replace(get_task("demo"), tile_px=64, normalization=Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    return Checkpoint(task, "by hand", Averages(ClassifierConfig("test_resnet", (2,), 4)), None, {})


def test_classes_of_one_color_are_alike_within_and_unlike_between() -> None:
    truth = np.zeros((64, 192), np.uint8)
    truth[:, :64], truth[:, 64:128] = 1, 2
    rgb = np.zeros((64, 192, 3), np.uint8)
    rgb[truth == 1] = (255, 0, 0)
    rgb[truth == 2] = (0, 255, 0)
    statistics = collect_statistics(checkpoint(), [TruthImage("i", rgb, truth)], 0.5)
    assert statistics.intra_mean[:2].tolist() == pytest.approx([1, 1])
    assert statistics.inter_mean[:2].tolist() == pytest.approx([-1 / 3, -1 / 3])  # (+,−,−)·(−,+,−) / 3
    assert np.isnan(statistics.intra_mean[2:]).all()
    assert statistics.activation[0, -1] == BINS  # every cell of its own class answers with the map's maximum
    assert statistics.activation.sum(axis=1)[:2].tolist() == pytest.approx([BINS, BINS])
    pictures = draw_statistics(statistics, checkpoint().task)
    assert len(pictures) == 2
    assert all(picture.ndim == 3 and picture.std() > 1 for picture in pictures.values())


def test_cells_on_an_edge_belong_to_no_class() -> None:
    model = checkpoint()
    truth = np.full((64, 64), 1, np.uint8)
    truth[:, 64 - model.cam_cell_px // 2 :] = 2  # half of the last column of cells
    statistics = collect_statistics(model, [TruthImage("i", np.zeros((64, 64, 3), np.uint8), truth)], 0.5)
    assert np.isnan(statistics.intra_mean[1])
    assert statistics.intra_mean[0] == pytest.approx(1)


def test_says_what_is_missing() -> None:
    with pytest.raises(EvaluationError, match="expected a classification network"):
        collect_statistics(dataclasses.replace(checkpoint(), cam_network=None), [], 0.5)
    small = TruthImage("i", np.zeros((40, 40, 3), np.uint8), np.ones((40, 40), np.uint8))
    with pytest.raises(EvaluationError, match="at least 64 px"):
        collect_statistics(checkpoint(), [small], 0.5)
