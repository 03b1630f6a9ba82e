"""PSCL stage 1 as a Lightning module (thesis §4.3): losses and pseudo-labels. Knows the method, not where data or results lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .cam import gate_by_labels, normalize_cam, pseudo_labels
from .classifier import Classifier
from .encoder import normalize
from .schedule import Schedule, make_optimizer
from .supcon import PsclLoss

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip


@dataclass(frozen=True)
class PsclOptions:
    """The contrastive term of stage 1.

    Attributes:
        weight: λ of eq. 4.2; 0 trains the classifier alone.
        threshold: τ of eq. 4.6.
        temperature: of eq. 4.8 (METHODS: 0.1).
        max_vectors: bound of the quadratic cost, a class-balanced draw above it.
        background: append the background seed as a class (table 5.9 leaves it out).
        gate: zero the CAMs of classes that the image label says are absent.
    """

    weight: float = 0.1
    threshold: float = 0.25
    temperature: float = 0.1
    max_vectors: int = 4096
    background: bool = True
    gate: Literal["labels", "none"] = "labels"


class StageOne(lightning.LightningModule):
    """Classifier trained on image-level labels: L = L_mlsm + λ·L_pscl (eq. 4.2)."""

    def __init__(
        self, network: Classifier, task: TissueTask, schedule: Schedule, options: PsclOptions, total_steps: int, seed: int
    ) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.schedule = schedule
        self.options = options
        self.total_steps = total_steps
        self.pscl = PsclLoss(options.temperature, options.max_vectors, seed)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        features = self.network.features(normalize(batch["image"], self.task.normalization.mean, self.task.normalization.std))
        class_maps, logits = self.network.classify(features)
        loss = functional.multilabel_soft_margin_loss(logits, batch["labels"])
        self.log("mlsm", loss.detach(), prog_bar=True)
        if self.options.weight > 0:
            contrast = self.pscl(features, self._pseudo_labels(class_maps, batch))
            self.log("pscl", contrast.detach(), prog_bar=True)
            loss = loss + self.options.weight * contrast
        return loss

    @torch.no_grad()
    def _pseudo_labels(self, class_maps: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Eq. 4.6 on the feature grid, the background seed brought to it by area."""
        cam = normalize_cam(class_maps)
        if self.options.gate == "labels":
            cam = gate_by_labels(cam, batch["labels"])
        seed = None
        if self.options.background and self.task.background is not None:
            seed = functional.adaptive_avg_pool2d(batch["background"].float()[:, None], (cam.shape[2], cam.shape[3]))[:, 0]
        return pseudo_labels(cam, seed, self.options.threshold)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.network.parameters(), self.schedule, self.total_steps)
