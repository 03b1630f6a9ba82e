from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training import reference
from training.cam import IGNORE, gate_by_labels, gate_by_logits, labels_from_cam, normalize_cam, pseudo_labels


def test_cam_is_relu_over_its_own_maximum_per_image_and_class() -> None:
    class_maps = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    class_maps[1, 2] = -1.0  # no activation anywhere: stays 0, not NaN
    expected = np.stack([reference.cam(image.numpy()) for image in class_maps])
    np.testing.assert_allclose(normalize_cam(class_maps).numpy(), expected)
    assert normalize_cam(class_maps)[1, 2].abs().sum() == 0


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.9])
def test_pseudo_labels_follow_equation_4_6(threshold: float) -> None:
    generator = torch.Generator().manual_seed(2)
    # Coarse steps make ties common, where tissue must win over background.
    cam = torch.randint(0, 5, (4, 3, 6, 7), generator=generator).double() / 4
    background = torch.randint(0, 5, (4, 6, 7), generator=generator).double() / 4
    labels = pseudo_labels(cam, background, threshold).numpy()
    for image in range(4):
        np.testing.assert_array_equal(labels[image], reference.pseudo_labels(cam[image].numpy(), background[image].numpy(), threshold))


def test_pseudo_labels_without_background_never_name_it() -> None:
    labels = pseudo_labels(torch.zeros(1, 2, 3, 3), None, 0.25)
    assert (labels == IGNORE).all()


def test_gate_by_labels_silences_absent_classes_alone() -> None:
    gated = gate_by_labels(torch.ones(2, 3, 2, 2), torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    assert gated.amax(dim=(2, 3)).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_gate_by_logits_keeps_the_top_class_where_none_passes() -> None:
    gate = gate_by_logits(torch.tensor([[1.0, -1.0, 0.5], [-3.0, -1.0, -2.0], [0.0, -1.0, -1.0]]))
    assert gate.tolist() == [[True, False, True], [False, True, False], [True, False, False]]


def test_labels_from_cam_give_silent_pixels_the_top_passing_class() -> None:
    cam = torch.zeros(1, 3, 1, 3)
    cam[0, 0, 0, 0] = 0.4
    cam[0, 1, 0, 1] = 0.9
    cam[0, 2, 0, 0] = 1.0  # gated away
    labels = labels_from_cam(cam, torch.tensor([[1, 1, 0]]), torch.tensor([[2.0, 1.0, 9.0]]))
    assert labels.tolist() == [[[1, 2, 1]]]
