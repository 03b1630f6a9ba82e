"""PSCL stage 2 as a Lightning module (thesis §4.4): a segmenter learns pseudo-masks. Knows the method, not where data or results lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .datasets.placement import IGNORE_LABEL
from .encoder import normalize
from .errors import RecipeError
from .noise_reduced import noise_reduced_loss
from .schedule import Schedule, make_optimizer
from .segmenter import Segmenter

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip


@dataclass(frozen=True)
class StageTwoOptions:
    """What stage 2 minimizes."""

    loss: Literal["cross_entropy", "noise_reduced"] = "cross_entropy"
    """The thesis found plain cross-entropy better (table 5.23)."""
    temperature: float = 1.0
    """Of the Gumbel softmax in the noise-reduced loss; above 0."""

    def __post_init__(self) -> None:
        # Here, not where it is used: stage 1 would have been trained by then.
        if not self.temperature > 0:
            raise RecipeError(f"segment.temperature: expected a number above 0, got {self.temperature}")


class StageTwo(lightning.LightningModule):
    """Segmenter trained on stage 1's pseudo-masks: as if they were truth, or each pixel by its confidence (thesis §4.4)."""

    def __init__(self, network: Segmenter, task: TissueTask, schedule: Schedule, options: StageTwoOptions, total_steps: int) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.schedule = schedule
        self.options = options
        self.total_steps = total_steps

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        logits = self.network(normalize(batch["image"], self.task.normalization.mean, self.task.normalization.std))
        full = functional.interpolate(logits, size=batch["target"].shape[1:], mode="bilinear", align_corners=False)
        loss = self._noise_reduced(full, batch) if self.options.loss == "noise_reduced" else _cross_entropy(full, batch["target"])
        self.log(self.options.loss, loss.detach(), prog_bar=True)
        return loss

    def _noise_reduced(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Eq. 4.11; the background's confidence is 1 where the rule seeded it, which is where the pseudo-mask is 0.

        The tissues' is 0 there: eq. 4.9 overrules the CAMs in the same places.
        """
        seeded = (batch["target"] == 0)[:, None].to(logits.dtype)
        confidence = torch.cat([seeded, batch["confidence"] * (1 - seeded)], dim=1)
        return noise_reduced_loss(logits, batch["target"], confidence, self.options.temperature, noise=self.training)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.network.parameters(), self.schedule, self.total_steps)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over the pixels that count; a batch of padding alone teaches nothing, and must not be NaN."""
    counted = (target != IGNORE_LABEL).sum().clamp(min=1)
    return functional.cross_entropy(logits, target, ignore_index=IGNORE_LABEL, reduction="sum") / counted
