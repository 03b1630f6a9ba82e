"""Generated tissue: exact truth, the same for the same seed, told apart by structure and not by color alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from serving.background import background_mask, to_gray
from serving.tasks import get_task
from training.tissue.noise import keep_inside, scatter_points, smooth_noise
from training.tissue.nuclei import stamp
from training.tissue.patch import draw_patch
from training.tissue.render import GLAND, GLASS, NECROSIS, STROMA, TEXTURES, TUMOR, render

SIDE = 224


def pictures(label: int, count: int = 6) -> list[np.ndarray]:
    return [render(np.full((SIDE, SIDE), label, np.uint8), 1000 * label + index) for index in range(count)]


def dark_share(rgb: np.ndarray) -> float:
    """Share of the picture that nuclei cover: darker than the picture's own ground."""
    gray = to_gray(rgb)
    return float((gray < np.percentile(gray, 75) - 45).mean())


def coherence(rgb: np.ndarray) -> float:
    """0 = no direction, 1 = one direction everywhere (structure tensor over 24 px)."""
    gray = ndimage.gaussian_filter(to_gray(rgb), 1.5)
    gy, gx = np.gradient(gray)
    xx, yy, xy = (ndimage.gaussian_filter(product, 24) for product in (gx * gx, gy * gy, gx * gy))
    return float((np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy)).mean())


def test_the_same_seed_gives_the_same_patch_and_another_another() -> None:
    first, again, other = draw_patch(3), draw_patch(3), draw_patch(4)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any()


@given(seed=st.integers(0, 2**40))
def test_patches_have_one_to_three_tissues_and_seldom_glass(seed: int) -> None:
    from training.tissue.patch import draw_labels

    labels = draw_labels(np.random.default_rng(seed), 64)
    assert labels.dtype == np.uint8
    assert 1 <= len(set(np.unique(labels)) - {GLASS}) <= 3 or (labels == GLASS).all()
    assert labels.max() <= NECROSIS


def test_glass_is_background_by_the_task_s_rule_and_tissue_is_not() -> None:
    rule = get_task("demo").background
    assert rule is not None
    labels = np.full((SIDE, SIDE), TUMOR, np.uint8)
    labels[:, SIDE // 2 :] = GLASS
    for seed in range(6):
        found = background_mask(render(labels, seed), rule.gray_above, rule.min_size_px)
        assert (found == (labels == GLASS)).mean() > 0.985  # the edge is a little soft, as under a lens


def test_tumor_is_crowded_with_nuclei_and_stroma_is_not() -> None:
    assert min(map(dark_share, pictures(TUMOR))) > 2 * max(map(dark_share, pictures(STROMA)))


def test_stroma_alone_has_a_direction() -> None:
    others = [picture for label in (TUMOR, GLAND, NECROSIS) for picture in pictures(label, 4)]
    assert min(map(coherence, pictures(STROMA))) > 1.3 * max(map(coherence, others))


def test_necrosis_is_finer_grained_than_the_others() -> None:
    def fine_share(rgb: np.ndarray) -> float:
        gray = to_gray(rgb)
        return float((gray - ndimage.gaussian_filter(gray, 2)).var() / gray.var())

    means = {label: np.mean([fine_share(picture) for picture in pictures(label)]) for label in TEXTURES}
    assert max(means, key=lambda label: means[label]) == NECROSIS


def test_glands_are_rings_around_a_pale_lumen() -> None:
    """Around pale round spots the picture is darker at the rings' radius than at the center and further out."""
    rgb = pictures(GLAND, 1)[0]
    gray = ndimage.gaussian_filter(to_gray(rgb), 3)
    pale = ndimage.maximum_filter(gray, 31) == gray
    y, x = np.nonzero(pale)
    inner = [
        (a, b) for a, b in zip(y, x, strict=True) if 35 < a < SIDE - 35 and 35 < b < SIDE - 35 and gray[a, b] > np.percentile(gray, 90)
    ]
    assert len(inner) >= 3
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.mean([[gray[int(a + 18 * s), int(b + 18 * c)] for s, c in zip(np.sin(angle), np.cos(angle), strict=True)] for a, b in inner])
    assert ring < np.mean([gray[a, b] for a, b in inner]) - 25


def test_average_color_hardly_tells_the_classes_apart() -> None:
    """Between-class spread of a picture's mean color against the spread within a class: structure must be learned."""
    means = {label: np.array([picture.mean(axis=(0, 1)) for picture in pictures(label, 12)]) for label in TEXTURES}
    within = np.mean([values.std(axis=0) for values in means.values()])
    between = np.std([values.mean(axis=0) for values in means.values()], axis=0).mean()
    assert between < 2 * within


def test_smooth_noise_has_unit_variance_and_its_correlation_length() -> None:
    field = smooth_noise(np.random.default_rng(0), (600, 700), 9)
    assert field.shape == (600, 700)
    assert field.std() == pytest.approx(1, abs=0.15)
    assert np.corrcoef(field[:, :-3].ravel(), field[:, 3:].ravel())[0, 1] > 0.9
    assert abs(np.corrcoef(field[:, :-60].ravel(), field[:, 60:].ravel())[0, 1]) < 0.2


def test_scattered_points_fill_the_canvas_evenly() -> None:
    points = keep_inside(scatter_points(np.random.default_rng(0), (300, 400), 10, 0.1), np.ones((300, 400), np.bool_))
    assert len(points) == pytest.approx(300 * 400 / 100, rel=0.1)
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=(3, 4))
    assert counts.min() > 70


def test_stamps_are_cut_at_the_edge_and_the_darker_shows() -> None:
    canvas = np.zeros((4, 4), np.float32)
    nucleus = [np.ones((3, 3), np.float32)]
    stamp(canvas, np.array([[0.0, 0.0], [3.0, 3.0], [3.0, 3.0], [9.0, 9.0]]), nucleus, np.zeros(4, np.int64), np.array([0.5, 0.9, 0.2, 1]))
    expected = np.zeros((4, 4))
    expected[:2, :2], expected[2:, 2:] = 0.5, 0.9
    np.testing.assert_allclose(canvas, expected)
