"""Evidence of tiles: literal cases of the gate and of silent maps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from clients.evidence import DEFAULT_GATE, cam_evidence, score_gate, tile_evidence
from serving.contract import CAM, PROBABILITIES, SCORES


def gated(cam: npt.NDArray[np.float32], scores: list[float], threshold: float = 0.5) -> npt.NDArray[np.float32]:
    return tile_evidence("cam", {CAM: cam, SCORES: np.array([scores], np.float32)}, [(0, 0)], score_gate(threshold))


def test_segment_evidence_is_the_dequantized_distribution() -> None:
    levels = np.arange(5 * 4, dtype=np.uint8).reshape(1, 5, 2, 2) * 12
    np.testing.assert_array_equal(
        tile_evidence("segment", {PROBABILITIES: levels}, [(0, 0)], DEFAULT_GATE), levels.astype(np.float32) / np.float32(255)
    )


def test_cam_evidence_counts_passing_classes_by_their_score() -> None:
    cam = np.array([[[[1.0, 0.5]], [[0.4, 1.0]], [[1.0, 1.0]]]], np.float32)
    evidence = gated(cam, [0.6, 0.9, 0.4])
    expected = np.array([[0, 0], [0.6, 0.3], [0.36, 0.9], [0, 0]])
    np.testing.assert_allclose(evidence[0, :, 0], expected, rtol=1e-6)


def test_where_no_class_passes_the_best_alone_does() -> None:
    cam = np.ones((1, 3, 1, 1), np.float32)
    np.testing.assert_allclose(gated(cam, [0.1, 0.3, 0.2]).ravel(), [0, 0, 0.3, 0], rtol=1e-6)


def test_a_silent_pixel_gets_the_class_with_the_highest_score() -> None:
    cam = np.zeros((1, 3, 1, 2), np.float32)
    cam[0, 0, 0, 0] = 0.01
    evidence = gated(cam, [0.6, 0.9, 0.95])
    assert evidence.argmax(axis=1).tolist() == [[[1, 3]]]
    assert 0 < evidence[0, 3, 0, 1] < 1e-4


@pytest.mark.parametrize(("threshold", "passing"), [(-1, [1, 2, 3]), (0.5, [1, 2]), (0.7, [2]), (0.95, [2])])
def test_the_gate_has_a_threshold(threshold: float, passing: list[int]) -> None:
    evidence = gated(np.ones((1, 3, 1, 1), np.float32), [0.6, 0.9, 0.4], threshold)
    assert np.flatnonzero(evidence.ravel()).tolist() == passing


def test_of_given_classes_a_silent_pixel_gets_the_best_one_that_counts() -> None:
    cam, scores = np.zeros((2, 3, 1, 1), np.float32), np.array([[0.1, 0.2, 0.9]] * 2, np.float32)
    evidence = cam_evidence(cam, scores, np.array([[True, True, False], [True, False, False]]))
    assert evidence.argmax(axis=1).ravel().tolist() == [2, 1]
