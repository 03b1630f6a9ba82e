"""PSCL stage 1 as a Lightning module (thesis §4.3): losses and pseudo-labels. Knows the method, not where data or results lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .cam import IGNORE, gate_by_labels, gate_by_logits, normalize_cam, pseudo_labels
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
        background: the class that background cells form: color = the task's rule (thesis §4.3.2), activation = cells on which no CAM
            exceeds `activation_below` (table 5.8), none = leave it out (table 5.9).
        gate: whose CAMs count: labels = classes on the image's label, scores = classes that the network finds, none = all.
        start_epoch: train the classifier alone before (table 5.10).
        alone: from then on train the contrastive term alone (table 5.10, "PSCL").
        weigh_by_confidence: each vector's term counts by its pseudo-label's confidence (§6.2.2).
    """

    weight: float = 0.1
    threshold: float = 0.25
    temperature: float = 0.1
    max_vectors: int = 4096
    background: Literal["color", "activation", "none"] = "color"
    activation_below: float = 0.1
    gate: Literal["labels", "scores", "none"] = "labels"
    start_epoch: int = 0
    alone: bool = False
    weigh_by_confidence: bool = False


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
        options = self.options
        if options.weight > 0 and self.current_epoch >= options.start_epoch:
            labels, confidence = self._pseudo_labels(class_maps, logits, batch)
            contrast = self.pscl(features, labels, confidence if options.weigh_by_confidence else None)
            self.log("pscl", contrast.detach(), prog_bar=True)
            loss = (0 if options.alone else loss) + options.weight * contrast
        return loss

    @torch.no_grad()
    def _pseudo_labels(self, class_maps: Tensor, logits: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Eq. 4.6 on the feature grid, and each label's confidence: int64 and float (B, h, w)."""
        cam = normalize_cam(class_maps)
        if self.options.gate == "labels":
            cam = gate_by_labels(cam, batch["labels"])
        elif self.options.gate == "scores":
            cam = gate_by_labels(cam, gate_by_logits(logits))
        seed = self._background_seed(cam, batch)
        strongest = cam.amax(dim=1)
        confidence = strongest if seed is None else torch.maximum(strongest, seed)
        labels = pseudo_labels(cam, seed, self.options.threshold)
        real = functional.adaptive_avg_pool2d(batch["valid"].float()[:, None], (cam.shape[2], cam.shape[3]))[:, 0]
        return torch.where(real > 0.5, labels, torch.full_like(labels, IGNORE)), confidence  # padding is no tissue of its own

    def _background_seed(self, cam: Tensor, batch: dict[str, Tensor]) -> Tensor | None:
        """How much each cell is background, (B, h, w), 0…1; None where background is no class."""
        if self.options.background == "activation":
            return (cam.amax(dim=1) < self.options.activation_below).to(cam.dtype)
        if self.options.background == "none" or self.task.background is None:
            return None
        return functional.adaptive_avg_pool2d(batch["background"].float()[:, None], (cam.shape[2], cam.shape[3]))[:, 0]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.network.parameters(), self.schedule, self.total_steps)
