from __future__ import annotations

import numpy as np
import pytest

from tests.training import reference
from training.metrics import confusion_matrix, score


def test_confusion_counts_every_pixel_once() -> None:
    random = np.random.default_rng(0)
    truth, predicted = random.integers(0, 4, (2, 13, 17), dtype=np.uint8)
    np.testing.assert_array_equal(confusion_matrix(truth, predicted, 3), reference.confusion(truth, predicted, 3))


def test_scores_by_hand_under_both_protocols() -> None:
    truth = np.array([[1, 1, 1, 2], [2, 2, 0, 0]], dtype=np.uint8)
    predicted = np.array([[1, 1, 2, 2], [2, 0, 1, 0]], dtype=np.uint8)
    confusion = confusion_matrix(truth, predicted, 2)
    unmasked, masked = score(confusion, "unmasked"), score(confusion, "masked")
    assert unmasked.iou == (2 / 4, 2 / 4)
    assert masked.iou == (2 / 3, 2 / 4)  # the tissue predicted on glass no longer counts; the tissue missed still does
    assert masked.dice == (4 / 5, 4 / 6)
    assert unmasked.miou == 0.5
    assert masked.accuracy == 4 / 6
    assert unmasked.accuracy == 5 / 8


def test_an_absent_class_has_no_iou_and_does_not_enter_the_mean() -> None:
    ones = np.ones((2, 2), dtype=np.uint8)
    scores = score(confusion_matrix(ones, ones, 2), "unmasked")
    assert scores.iou[0] == 1
    assert np.isnan(scores.iou[1])
    assert scores.miou == 1


def test_confusion_refuses_other_shapes_and_unknown_labels() -> None:
    ones = np.ones((2, 2), dtype=np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        confusion_matrix(ones, ones[:1], 2)
    with pytest.raises(ValueError, match=r"0…2, got up to 3"):
        confusion_matrix(ones, ones * 3, 2)
