"""Image-level scores against scikit-learn's definitions, written out."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training.classification import score_classification

bits = st.integers(1, 12).flatmap(lambda n: hnp.arrays(np.bool_, (2, n, 3)))


@given(bits)
def test_equals_counting_by_hand(pair: npt.NDArray[np.bool_]) -> None:
    truth, predicted = pair
    scores = score_classification(truth, predicted)
    for index in range(3):
        tp = sum(bool(t and p) for t, p in zip(truth[:, index], predicted[:, index], strict=True))
        fp = sum(bool(p and not t) for t, p in zip(truth[:, index], predicted[:, index], strict=True))
        fn = sum(bool(t and not p) for t, p in zip(truth[:, index], predicted[:, index], strict=True))
        for value, part, whole in (
            (scores.precision[index], tp, tp + fp),
            (scores.recall[index], tp, tp + fn),
            (scores.f1[index], 2 * tp, 2 * tp + fp + fn),
        ):
            assert math.isnan(value) if whole == 0 else value == pytest.approx(part / whole)
        assert scores.accuracy[index] == pytest.approx(1 - (fp + fn) / len(truth))
    assert scores.exact == pytest.approx(np.mean([list(t) == list(p) for t, p in zip(truth, predicted, strict=True)]))


def test_literal_case() -> None:
    truth = np.array([[1, 0], [1, 1], [0, 1]], bool)
    predicted = np.array([[1, 0], [0, 1], [0, 0]], bool)
    scores = score_classification(truth, predicted)
    assert scores.recall == (0.5, 0.5)
    assert scores.precision == (1, 1)
    assert [scores.micro_f1, scores.macro_f1] == pytest.approx([2 / 3, 2 / 3])
    assert scores.exact == pytest.approx(1 / 3)


def test_refuses_what_does_not_belong_together() -> None:
    with pytest.raises(ValueError, match="one shape"):
        score_classification(np.ones((2, 3), bool), np.ones((2, 2), bool))
