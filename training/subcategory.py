"""SC-CAM (Chang et al., CVPR 2020): classes split into sub-categories by clustering, learned beside them. Knows the method, not where data or results lie.

One round: `pooled_features` of a trained classifier → `cluster_subcategories` → `SubcategoryDataset` → `SubcategoryStage`. The paper repeats it.
The CAMs are the parent classifier's, which is the stage's `network`; the sub-categories only make its features cover more of a tissue.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .classifier import Classifier
from .encoder import normalize
from .errors import DataError, RecipeError
from .patch_dataset import PatchDataset
from .schedule import Schedule, make_optimizer

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip

Floats = npt.NDArray[np.float32]
SUBCATEGORIES = "subcategories"  # key of the sub-labels in an item
SUBCATEGORY_WEIGHT = 5.0
_ITERATIONS_AT_ONCE = 10
_MOST_ITERATIONS = 300


def cluster_subcategories(
    features: Floats, labels: npt.NDArray[np.integer[Any]], per_class: int = 10, seed: int = 0
) -> npt.NDArray[np.uint8]:
    """K-means within each class over the images that hold it: sub-labels, uint8 (N, C·per_class), one 1 per class that an image holds.

    Sub-category k of class c has the index c·per_class + k. A class with fewer different images than `per_class` has as many clusters as those;
    the other indices are 0 everywhere.

    Args:
        features: pooled, (N, D).
        labels: image-level, 0 or 1, (N, C).
        per_class: the paper's 10.
        seed: of the k-means++ start.

    Raises:
        RecipeError: fewer than one sub-category per class.
        DataError: features and labels of other shapes, or features that are not finite.
    """
    if per_class < 1:
        raise RecipeError(f"sub-categories: expected at least one per class, got {per_class}")
    if features.ndim != 2 or labels.ndim != 2 or len(features) != len(labels):
        raise DataError(f"sub-categories: expected features (N, D) and labels (N, C), got {features.shape} and {labels.shape}")
    if not np.isfinite(features).all():
        raise DataError("sub-categories: expected finite features, got some that are not: the classifier they came from has diverged")
    num_classes = labels.shape[1]
    assigned = np.zeros((len(labels), num_classes, per_class), dtype=np.uint8)
    for index in range(num_classes):
        rows = np.flatnonzero(labels[:, index])
        if len(rows):
            assigned[rows, index, _cluster(features[rows], per_class, np.random.default_rng((seed, index)))] = 1
    return assigned.reshape(len(labels), num_classes * per_class)


def _cluster(vectors: Floats, most: int, random: np.random.Generator) -> npt.NDArray[np.intp]:
    """The cluster of each vector, by k-means++ and Lloyd's iterations until no vector changes its cluster."""
    count = min(most, len(np.unique(vectors, axis=0)))  # k-means++ cannot start from more
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")  # then there is one sub-category less
        centers, found = kmeans2(vectors, count, iter=_ITERATIONS_AT_ONCE, minit="++", rng=random)
        for _ in range(_MOST_ITERATIONS // _ITERATIONS_AT_ONCE - 1):
            before = found
            centers, found = kmeans2(vectors, centers, iter=_ITERATIONS_AT_ONCE, minit="matrix")
            if np.array_equal(found, before):
                break
    clusters: npt.NDArray[np.intp] = found.astype(np.intp)
    return clusters


@torch.no_grad()
def pooled_features(network: Classifier, dataset: PatchDataset, batch: int = 16) -> Floats:
    """Mean over the grid of the features that the head reads: (N, D) in the order of the data set, which should not augment.

    The network's mode is left as it was.
    """
    was_training = network.training
    network.eval()
    normalization = dataset.task.normalization
    device = next(network.parameters()).device
    pooled = []
    for items in DataLoader(dataset, batch_size=batch):
        features = network.features(normalize(items["image"].to(device), normalization.mean, normalization.std))
        pooled.append(features.mean(dim=(2, 3)).float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(pooled)


class SubcategoryDataset(Dataset[dict[str, Tensor]]):
    """A data set whose items also carry their sub-labels, float (C·K,), under `SUBCATEGORIES`.

    Raises:
        DataError: not one row of sub-labels per item.
    """

    def __init__(self, patches: PatchDataset, sub_labels: npt.NDArray[np.uint8]) -> None:
        if len(patches) != len(sub_labels):
            raise DataError(f"sub-categories: expected sub-labels of {len(patches)} patches, got {len(sub_labels)}: cluster these patches")
        self.patches = patches
        self.sub_labels = torch.from_numpy(sub_labels)

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.patches[index] | {SUBCATEGORIES: self.sub_labels[index].float()}


class SubcategoryHead(nn.Module):
    """The sub-category classifier: 1×1 convolution without bias on the parent's features, average pooling; Xavier start as in the published code."""

    def __init__(self, channels: int, subcategories: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, subcategories, 1, bias=False)
        nn.init.xavier_uniform_(self.maps.weight)

    def class_maps(self, features: Tensor) -> Tensor:
        """(B, D, h, w) → where each sub-category answers, (B, C·K, h, w)."""
        maps: Tensor = self.maps(features)
        return maps

    def forward(self, features: Tensor) -> Tensor:
        """(B, D, h, w) → logits (B, C·K)."""
        return self.class_maps(features).mean(dim=(2, 3))


def subcategory_loss(
    logits: Tensor, labels: Tensor, sub_logits: Tensor, sub_labels: Tensor, weight: float = SUBCATEGORY_WEIGHT
) -> tuple[Tensor, Tensor]:
    """L = L_parent + λ·L_sub , both multi-label soft margin; returns (L, L_sub).

    λ = 5, the published code's default: each term is a mean over its outputs, of which L_sub has K times as many, nearly all negative, so that a
    weight of 1 would let the parent drown it.

    Args:
        logits: (B, C); labels: (B, C), 0 or 1.
        sub_logits: (B, C·K); sub_labels: (B, C·K), 0 or 1.
    """
    sub = functional.multilabel_soft_margin_loss(sub_logits, sub_labels)
    return functional.multilabel_soft_margin_loss(logits, labels) + weight * sub, sub


class SubcategoryStage(lightning.LightningModule):
    """Classifier trained on image-level labels and sub-labels together; items come from `SubcategoryDataset`.

    Args:
        network: the parent classifier; its CAMs are the result.
        subcategories: columns of the sub-labels, C·K.
        weight: λ; 0 trains the parent alone.
    """

    def __init__(
        self,
        network: Classifier,
        task: TissueTask,
        schedule: Schedule,
        subcategories: int,
        total_steps: int,
        weight: float = SUBCATEGORY_WEIGHT,
    ) -> None:
        super().__init__()
        self.network = network
        self.head = SubcategoryHead(network.head.in_channels, subcategories)
        self.task = task
        self.schedule = schedule
        self.weight = weight
        self.total_steps = total_steps

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        features = self.network.features(normalize(batch["image"], self.task.normalization.mean, self.task.normalization.std))
        logits = self.network.classify(features)[1]
        loss, sub = subcategory_loss(logits, batch["labels"], self.head(features), batch[SUBCATEGORIES], self.weight)
        self.log("mlsm", (loss - self.weight * sub).detach(), prog_bar=True)
        self.log("subcategory", sub.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.parameters(), self.schedule, self.total_steps)
