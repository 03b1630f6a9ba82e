"""The torch wrappers against the numpy rules that clients and the server share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from export import reference
from export.wrapper import CamLabels, CamNet, Normalize, SegmentLabels, SegmentNet, gate, labels_from_levels
from serving.contract import CAM, LABELS, PROBABILITIES, SCORES
from serving.probabilities import labels_from_levels as numpy_labels
from serving.tasks import IMAGENET
from tests.export.networks import CAM_CELL_PX, SEGMENT_CELL_PX, SmallClassifier, SmallSegmenter, tissue_like
from training.cam import gate_by_logits

Array = npt.NDArray[Any]


class Fixed(nn.Module):
    """Answers the same whatever it sees."""

    def __init__(self, class_maps: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.answer = class_maps, logits

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.answer


def run(module: nn.Module, *arrays: Array) -> list[Array]:
    with torch.inference_mode():
        return [output.numpy() for output in module(*(torch.from_numpy(array) for array in arrays))]


def cam_net(class_maps: Array, logits: Array) -> list[Array]:
    network = Fixed(torch.from_numpy(class_maps.astype(np.float32)), torch.from_numpy(logits.astype(np.float32)))
    return run(CamNet(network, IMAGENET, CAM_CELL_PX), tissue_like(len(logits)))


def test_normalize_is_the_contracts() -> None:
    tiles = tissue_like(2)
    with torch.inference_mode():
        normalized = Normalize(IMAGENET)(torch.from_numpy(tiles)).numpy()
    np.testing.assert_allclose(normalized, reference.normalize(tiles, IMAGENET), atol=1e-6)


@pytest.mark.parametrize("cell_px", [1, 2, 4, 8])
def test_labels_from_levels_are_exactly_the_numpy_rules(cell_px: int) -> None:
    generator = np.random.default_rng(cell_px)
    few_levels = generator.integers(0, 3, (3, 5, 16, 16), dtype=np.uint8)  # many ties
    all_levels = generator.integers(0, 256, (3, 5, 16, 16), dtype=np.uint8)
    for levels in (few_levels, all_levels):
        labels = labels_from_levels(torch.from_numpy(levels).float(), cell_px).numpy()
        np.testing.assert_array_equal(labels, np.stack([numpy_labels(tile, cell_px) for tile in levels]))


def test_segment_net_gives_levels_of_the_softmax_and_their_labels() -> None:
    tiles = tissue_like(3)
    network = SmallSegmenter().eval()
    labels, levels = run(SegmentNet(network, IMAGENET, SEGMENT_CELL_PX), tiles)
    (logits,) = reference.run_network(network, tiles, IMAGENET)
    expected = reference.segment_outputs(logits, SEGMENT_CELL_PX)
    assert levels.dtype == labels.dtype == np.uint8
    assert levels.shape == (3, 5, 56, 56)
    assert np.abs(levels.astype(int) - expected[PROBABILITIES]).max() <= 1
    np.testing.assert_array_equal(labels, np.stack([numpy_labels(tile, SEGMENT_CELL_PX) for tile in levels]))
    assert len(np.unique(labels)) > 2  # else the comparison says little


def test_without_background_channel_zero_is_zero_and_no_label_is_it() -> None:
    tiles = tissue_like(3)
    network = SmallSegmenter(has_background=False).eval()
    labels, levels = run(SegmentNet(network, IMAGENET, SEGMENT_CELL_PX), tiles)
    (logits,) = reference.run_network(network, tiles, IMAGENET)
    assert logits.shape == (3, 4, 56, 56)
    softmax = torch.from_numpy(logits).softmax(dim=1).numpy()
    assert levels.dtype == labels.dtype == np.uint8
    assert levels.shape == (3, 5, 56, 56)
    assert not levels[:, 0].any()
    assert np.abs(levels[:, 1:] - softmax * 255).max() <= 0.5 + 1e-3  # class c is channel c
    assert labels.min() == 1
    assert len(np.unique(labels)) > 2
    np.testing.assert_array_equal(labels, np.stack([numpy_labels(tile, SEGMENT_CELL_PX) for tile in levels]))
    expected = reference.segment_outputs(logits, SEGMENT_CELL_PX, has_background=False)
    assert np.abs(levels.astype(int) - expected[PROBABILITIES]).max() <= 1
    assert (labels == expected[LABELS]).mean() > 0.999


def test_without_background_undecided_pixels_still_get_a_class() -> None:
    """254 classes, all alike: each is 1.004 of 255, and one must come before the zeros of channel 0."""

    class Undecided(nn.Module):
        has_background = False

        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), 254, 7, 7)

    labels, levels = run(SegmentNet(Undecided(), IMAGENET, 32), tissue_like(2))
    assert set(np.unique(levels[:, 1:])) == {1}
    assert set(np.unique(labels)) == {1}


def test_without_background_the_rule_alone_says_zero() -> None:
    """Channel 0 = b + (1 − b)·0, the others × (1 − b): the area fraction of the rule is all the background there is."""
    tiles = tissue_like(2)
    _, levels = run(SegmentNet(SmallSegmenter(has_background=False).eval(), IMAGENET, SEGMENT_CELL_PX), tiles)
    background = np.zeros((2, 224, 224), np.uint8)
    background[0, :112] = 1
    background[0, 112:, ::2] = 1  # half of each cell
    labels, combined = run(SegmentLabels(SEGMENT_CELL_PX), levels, background)
    assert (combined[0, 0, :28] == 255).all()
    assert (combined[0, 0, 28:] == 128).all()  # 127.5, half to even
    assert not combined[0, 1:, :28].any()
    assert np.abs(combined[0, 1:, 28:] - levels[0, 1:, 28:] / 2).max() <= 0.5
    np.testing.assert_array_equal(combined[1], levels[1])
    assert (labels[0, :108] == 0).all()
    assert labels[1].min() == 1
    expected = reference.segment_labels({PROBABILITIES: levels}, background, SEGMENT_CELL_PX)
    np.testing.assert_array_equal(combined, expected[PROBABILITIES])
    np.testing.assert_array_equal(labels, expected[LABELS])


def test_segment_labels_are_exactly_the_numpy_rules() -> None:
    generator = np.random.default_rng(0)
    levels = generator.integers(0, 256, (4, 5, 56, 56), dtype=np.uint8)
    background = generator.integers(0, 2, (4, 224, 224), dtype=np.uint8)
    background[0], background[1] = 0, 1
    labels, combined = run(SegmentLabels(SEGMENT_CELL_PX), levels, background)
    expected = reference.segment_labels({PROBABILITIES: levels}, background, SEGMENT_CELL_PX)
    np.testing.assert_array_equal(combined, expected[PROBABILITIES])
    np.testing.assert_array_equal(labels, expected[LABELS])
    np.testing.assert_array_equal(combined[0], levels[0])  # no background: untouched
    assert (labels[1] == 0).all()
    assert (combined[1, 0] == 255).all()


def test_cam_net_is_the_numpy_rule() -> None:
    tiles = tissue_like(4)
    network = SmallClassifier().eval()
    labels, cam, scores = run(CamNet(network, IMAGENET, CAM_CELL_PX), tiles)
    class_maps, logits = reference.run_network(network, tiles, IMAGENET)
    expected = reference.cam_outputs(class_maps, logits, CAM_CELL_PX)
    np.testing.assert_allclose(cam, expected[CAM], atol=1e-5)
    np.testing.assert_allclose(scores, expected[SCORES], atol=1e-6)
    assert (labels == expected[LABELS]).mean() > 0.9999


def test_cam_net_drops_classes_below_the_gate() -> None:
    class_maps = np.full((1, 4, 14, 14), 0.5)
    class_maps[0, 1], class_maps[0, 2] = 3, 1
    class_maps[0, :, 0, 0] = 4  # every CAM has its maximum
    labels, cam, scores = cam_net(class_maps, np.array([[-1.0, -1.0, 2.0, 1.0]]))
    assert cam.max(axis=(2, 3)).tolist() == [[1, 1, 1, 1]]
    assert set(np.unique(labels)) == {3}  # class 2 has the largest CAM nearly everywhere, but does not pass
    np.testing.assert_allclose(scores, 1 / (1 + np.exp([[1.0, 1.0, -2.0, -1.0]])), atol=1e-6)


def test_cam_net_keeps_the_top_class_where_none_passes() -> None:
    labels, _, _ = cam_net(np.ones((1, 4, 14, 14)), np.array([[-3.0, -2.0, -1.0, -4.0]]))
    assert set(np.unique(labels)) == {3}


def test_cam_net_gives_silent_pixels_to_the_top_passing_class() -> None:
    class_maps = np.full((1, 4, 14, 14), -1.0)
    class_maps[0, 0, :7] = 2.0  # class 1 answers in the upper half, nobody in the lower
    labels, cam, _ = cam_net(class_maps, np.array([[1.0, 2.0, -1.0, -1.0]]))
    assert (labels[0, :104] == 1).all()
    assert (labels[0, -104:] == 2).all()
    assert cam[0, 1:].max() == 0  # maximum 0 gives 0, not NaN


def test_gate_is_trainings() -> None:
    logits = torch.tensor([[-1.0, 2.0, 0.5], [-1.0, -2.0, -0.5], [0.0, 0.0, 0.0], [1.0, 1.0, -1.0]])
    assert torch.equal(gate(logits), gate_by_logits(logits).bool())


def test_cam_labels_multiply_by_the_complement_and_pass_the_rest_through() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(1, 5, (2, 224, 224), dtype=np.uint8)
    background = generator.integers(0, 2, (2, 224, 224), dtype=np.uint8)
    cam, scores = generator.random((2, 4, 14, 14), dtype=np.float32), generator.random((2, 4), dtype=np.float32)
    combined = run(CamLabels(), labels, cam, scores, background)
    for array, expected in zip(combined, (labels * (1 - background), cam, scores), strict=True):
        np.testing.assert_array_equal(array, expected)
