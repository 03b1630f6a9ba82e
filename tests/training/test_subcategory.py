"""SC-CAM: clusters that were put there are found, sub-labels belong to their classes, the loss against a loop, and the way into a stage."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from serving.tasks import get_task
from training.classifier import Classifier, ClassifierConfig
from training.errors import DataError, RecipeError
from training.fitting import Machine, fit, total_steps
from training.patch_dataset import PatchDataset, PatchSample
from training.schedule import Schedule
from training.subcategory import (
    SUBCATEGORIES,
    SubcategoryDataset,
    SubcategoryHead,
    SubcategoryStage,
    cluster_subcategories,
    pooled_features,
    subcategory_loss,
)
from training.tissue.patch import draw_patch

TASK = dataclasses.replace(get_task("demo"), tile_px=64)
PER_CLASS = 3


def separated() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Features of 90 images, their labels of two classes, and which of three far groups each is in; a third of the images hold both classes."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 30)
    centers = np.array([[0, 0, 0, 0], [50, 0, 0, 0], [0, 0, 50, 0]])
    features = (centers[group] + random.normal(0, 1, (90, 4))).astype(np.float32)
    kind = np.tile(np.arange(3), 30)
    return features, np.stack([kind != 1, kind != 0], axis=1).astype(np.int64), group


def test_groups_within_a_class_become_its_sub_categories() -> None:
    features, labels, group = separated()
    found = cluster_subcategories(features, labels, PER_CLASS, seed=0).reshape(90, 2, PER_CLASS)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found.sum(axis=2), labels)  # one sub-category for each class that the image holds, none for others
    for index in range(2):
        rows = np.flatnonzero(labels[:, index])
        pairs = set(zip(group[rows].tolist(), found[rows, index].argmax(axis=1).tolist(), strict=True))
        assert len(pairs) == 3  # groups and sub-categories are one to one
        assert {sub for _, sub in pairs} == {0, 1, 2}


def test_clusters_are_lloyd_s_fixed_point() -> None:
    """No image is nearer to another cluster's mean than to its own's."""
    random = np.random.default_rng(1)
    features = random.normal(size=(200, 3)).astype(np.float32)
    found = cluster_subcategories(features, np.ones((200, 1), np.int64), 5, seed=0).argmax(axis=1)
    means = np.stack([features[found == cluster].mean(axis=0) for cluster in range(5)])
    for vector, cluster in zip(features, found, strict=True):
        distances = [float(((vector - mean) ** 2).sum()) for mean in means]
        assert distances[cluster] == pytest.approx(min(distances), rel=1e-4)


def test_a_seed_gives_the_same_sub_categories() -> None:
    random = np.random.default_rng(1)
    features, labels = random.normal(size=(60, 3)).astype(np.float32), random.integers(0, 2, (60, 2))
    first, again, other = (cluster_subcategories(features, labels, 6, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("images", "clusters"), [(0, 0), (1, 1), (2, 2), (9, 4)])
def test_a_class_with_few_images_has_few_sub_categories(images: int, clusters: int) -> None:
    features = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    labels = np.zeros((12, 2), np.int64)
    labels[:images, 0], labels[:, 1] = 1, 1
    found = cluster_subcategories(features, labels, 4, seed=0)
    assert found.shape == (12, 8)
    assert int(found[:, :4].any(axis=0).sum()) == clusters
    np.testing.assert_array_equal(found[:, :4].sum(axis=1), labels[:, 0])


def test_images_that_are_all_alike_are_one_sub_category() -> None:
    found = cluster_subcategories(np.ones((7, 3), np.float32), np.ones((7, 1), np.int64), 4, seed=0)
    assert found.any(axis=0).sum() == 1
    np.testing.assert_array_equal(found.sum(axis=1), 1)


def test_what_cannot_be_clustered_is_named() -> None:
    features, labels = np.zeros((4, 2), np.float32), np.ones((4, 1), np.int64)
    with pytest.raises(RecipeError, match="at least one per class, got 0"):
        cluster_subcategories(features, labels, 0, seed=0)
    with pytest.raises(DataError, match=r"features \(N, D\) and labels \(N, C\), got \(4, 2\) and \(3, 1\)"):
        cluster_subcategories(features, labels[:3], 2, seed=0)
    with pytest.raises(DataError, match="expected finite features"):
        cluster_subcategories(features * np.nan, labels, 2, seed=0)


def naive_soft_margin(logits: torch.Tensor, labels: torch.Tensor) -> float:
    images: list[float] = []
    for scores, truth in zip(logits, labels, strict=True):
        terms = []
        for score, label in zip(scores.tolist(), truth.tolist(), strict=True):
            p = 1 / (1 + math.exp(-score))
            terms.append(-(label * math.log(p) + (1 - label) * math.log(1 - p)))
        images.append(sum(terms) / len(terms))
    return sum(images) / len(images)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("weight", [5.0, 0.0])
def test_loss_equals_the_loop(dtype: torch.dtype, batch: int, weight: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, sub_logits = (torch.randn(batch, count, generator=generator, dtype=dtype) for count in (3, 12))
    labels, sub_labels = (torch.randint(0, 2, (batch, count), generator=generator).to(dtype) for count in (3, 12))
    loss, sub = subcategory_loss(logits, labels, sub_logits, sub_labels, weight)
    expected = naive_soft_margin(sub_logits, sub_labels)
    assert float(sub) == pytest.approx(expected, rel=1e-5)
    assert float(loss) == pytest.approx(naive_soft_margin(logits, labels) + weight * expected, rel=1e-5)


def test_head_s_logits_are_the_means_of_its_maps() -> None:
    torch.manual_seed(0)
    head, features = SubcategoryHead(4, 6).requires_grad_(False), torch.randn(2, 4, 3, 5)
    expected = torch.zeros(2, 6)
    for b in range(2):
        for k in range(6):
            values = [float((head.maps.weight[k, :, 0, 0] * features[b, :, y, x]).sum()) for y in range(3) for x in range(5)]
            expected[b, k] = sum(values) / len(values)
    torch.testing.assert_close(head(features), expected)
    torch.testing.assert_close(head.class_maps(features.flip(3)), head.class_maps(features).flip(3))


@pytest.fixture
def patches(tmp_path: Path) -> PatchDataset:
    listed = []
    for index in range(6):
        rgb, labels = draw_patch(index, 64)
        Image.fromarray(rgb).save(tmp_path / f"{index}.png")
        listed.append(PatchSample(tmp_path / f"{index}.png", tuple(int((labels == c).any()) for c in range(1, 5))))
    return PatchDataset(listed, TASK, None, 0)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig("test_resnet", (2,), 4))


def test_pooled_features_say_the_logits_in_the_data_set_s_order(patches: PatchDataset, classifier: Classifier) -> None:
    """Pooled features times the head's weights are the logits: what is clustered is what the head reads, image by image."""
    features = pooled_features(classifier, patches, batch=4)
    assert classifier.training  # as it was
    classifier.eval()
    bias = classifier.head.bias
    assert bias is not None
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (TASK.normalization.mean, TASK.normalization.std))
    with torch.no_grad():
        for index in range(6):
            logits = classifier((patches[index]["image"][None] / 255 - mean) / std)[1][0]
            torch.testing.assert_close(torch.from_numpy(features[index]) @ classifier.head.weight[:, :, 0, 0].T + bias, logits)


def stage_and_data(patches: PatchDataset, classifier: Classifier, schedule: Schedule) -> tuple[SubcategoryStage, SubcategoryDataset]:
    labels = np.array([sample.labels for sample in patches.samples])
    sub_labels = cluster_subcategories(pooled_features(classifier, patches), labels, PER_CLASS, seed=0)
    stage = SubcategoryStage(classifier, TASK, schedule, sub_labels.shape[1], total_steps(len(patches), schedule, "subcategory"))
    return stage, SubcategoryDataset(patches, sub_labels)


def test_gradient_reaches_network_and_both_heads(patches: PatchDataset, classifier: Classifier) -> None:
    stage, dataset = stage_and_data(patches, classifier, Schedule("adamw", 1e-3, batch=3, epochs=1))
    stage.log = lambda *_, **__: None  # type: ignore[method-assign]
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)  # timm starts a block's last normalization at 0, which hides the block
    batch = torch.utils.data.default_collate([dataset[index] for index in range(6)])
    assert batch[SUBCATEGORIES].shape == (6, 4 * PER_CLASS)
    torch.autograd.backward(stage.training_step(batch, 0))
    assert [name for name, value in stage.named_parameters() if value.grad is None or not value.grad.abs().sum()] == []
    optimized = {id(value) for group in stage.configure_optimizers()["optimizer"].param_groups for value in group["params"]}
    assert optimized == {id(value) for value in stage.parameters()}


def test_a_round_through_lightning(patches: PatchDataset, classifier: Classifier, tmp_path: Path) -> None:
    schedule = Schedule("adamw", 1e-2, batch=3, epochs=2)
    stage, dataset = stage_and_data(patches, classifier, schedule)
    before = [value.clone() for value in (classifier.head.weight, stage.head.maps.weight)]
    fit(stage, dataset, schedule, tmp_path / "subcategory", Machine(log="none"))
    for old, new in zip(before, (classifier.head.weight, stage.head.maps.weight), strict=True):
        assert (old != new).any()
    with torch.no_grad():
        assert torch.isfinite(classifier.eval()(torch.zeros(1, 3, 64, 64))[0]).all()  # the parent's CAMs are what is used


def test_sub_labels_of_other_patches_are_refused(patches: PatchDataset) -> None:
    with pytest.raises(DataError, match="expected sub-labels of 6 patches, got 5"):
        SubcategoryDataset(patches, np.zeros((5, 12), np.uint8))
