from __future__ import annotations

import numpy as np

from benchmarks.color_baseline import learn_colors


def checkerboard() -> tuple[np.ndarray, np.ndarray]:
    labels = (np.indices((64, 64)).sum(axis=0) // 8 % 2 + 1).astype(np.uint8)
    return np.where(labels[..., None] == 1, np.uint8(40), np.uint8(220)).repeat(3, axis=2), labels


def test_colors_that_tell_the_classes_apart_are_learned() -> None:
    rgb, labels = checkerboard()
    np.testing.assert_array_equal(learn_colors([(rgb, labels)], 2, window_px=1).predict(rgb), labels)


def test_classes_of_one_color_get_the_more_frequent_and_unseen_colors_too() -> None:
    rgb = np.full((10, 10, 3), 100, dtype=np.uint8)
    labels = np.full((10, 10), 2, dtype=np.uint8)
    labels[:3] = 1
    lookup = learn_colors([(rgb, labels)], 2, window_px=1)
    assert (lookup.predict(rgb) == 2).all()
    assert (lookup.predict(np.zeros((2, 2, 3), dtype=np.uint8)) == 2).all()


def test_a_window_sees_the_mean_color_alone() -> None:
    rgb, labels = checkerboard()
    lookup = learn_colors([(rgb, labels)], 2, window_px=33)
    assert (lookup.predict(rgb) != labels).mean() > 0.2
