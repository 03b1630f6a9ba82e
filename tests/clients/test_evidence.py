"""Evidence of tiles: literal cases of the gate and of silent maps."""

from __future__ import annotations

import numpy as np

from clients.evidence import cam_evidence, tile_evidence
from serving.contract import PROBABILITIES


def test_segment_evidence_is_the_dequantized_distribution() -> None:
    levels = np.arange(5 * 4, dtype=np.uint8).reshape(1, 5, 2, 2) * 12
    np.testing.assert_array_equal(tile_evidence("segment", {PROBABILITIES: levels}), levels.astype(np.float32) / np.float32(255))


def test_cam_evidence_counts_passing_classes_by_their_score() -> None:
    cam = np.array([[[[1.0, 0.5]], [[0.4, 1.0]], [[1.0, 1.0]]]], np.float32)
    evidence = cam_evidence(cam, np.array([[0.6, 0.9, 0.4]], np.float32))
    expected = np.array([[0, 0], [0.6, 0.3], [0.36, 0.9], [0, 0]])
    np.testing.assert_allclose(evidence[0, :, 0], expected, rtol=1e-6)


def test_where_no_class_passes_the_best_alone_does() -> None:
    cam = np.ones((1, 3, 1, 1), np.float32)
    np.testing.assert_allclose(cam_evidence(cam, np.array([[0.1, 0.3, 0.2]], np.float32)).ravel(), [0, 0, 0.3, 0], rtol=1e-6)


def test_a_silent_pixel_gets_the_class_with_the_highest_score() -> None:
    cam = np.zeros((1, 3, 1, 2), np.float32)
    cam[0, 0, 0, 0] = 0.01
    evidence = cam_evidence(cam, np.array([[0.6, 0.9, 0.95]], np.float32))
    assert evidence.argmax(axis=1).tolist() == [[[1, 3]]]
    assert 0 < evidence[0, 3, 0, 1] < 1e-4
