"""PSCL stage 2 as a Lightning module (thesis §4.4): a segmenter learns pseudo-masks. Knows the method, not where data or results lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .channel_targets import channel_targets
from .datasets.placement import IGNORE_LABEL
from .dropout_attention import LEVEL_WEIGHTS, multi_level_loss
from .easy_examples import easy_example_loss
from .encoder import normalize
from .errors import RecipeError
from .noise_reduced import noise_reduced_loss
from .pixel_losses import binary_cross_entropy, dice_loss
from .schedule import Schedule, make_optimizer
from .segmenter import Segmenter

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip


@dataclass(frozen=True)
class StageTwoOptions:
    """What stage 2 minimizes."""

    loss: Literal["cross_entropy", "noise_reduced", "easy_examples", "binary_cross_entropy", "dice"] = "cross_entropy"
    """The thesis found plain cross-entropy better than the noise-reduced loss (table 5.23); easy_examples is OEEM's, binary_cross_entropy
    PistoSeg's, dice what its published code trains the preliminary network with."""
    temperature: float = 1.0
    """Of the Gumbel softmax in the noise-reduced loss; above 0."""
    level_weights: tuple[float, ...] = LEVEL_WEIGHTS
    """Of the pseudo-masks, deepest first, where there are several (MLPS; cross_entropy alone)."""

    def __post_init__(self) -> None:
        # Here, not where it is used: stage 1 would have been trained by then.
        if not self.temperature > 0:
            raise RecipeError(f"segment.temperature: expected a number above 0, got {self.temperature}")


class StageTwo(lightning.LightningModule):
    """Segmenter trained on stage 1's pseudo-masks: as if they were truth, or each pixel by its confidence (thesis §4.4).

    A network without a background channel learns nothing from pixels of the label 0.
    """

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
        loss = self._loss(full, batch)
        self.log(self.options.loss, loss.detach(), prog_bar=True)
        return loss

    def _loss(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        target = channel_targets(batch["target"], self.network.has_background)
        if "more_targets" in batch:
            more = channel_targets(batch["more_targets"], self.network.has_background)
            return multi_level_loss(logits, torch.cat([target[:, None], more], dim=1), self.options.level_weights)
        if self.options.loss == "noise_reduced":
            return noise_reduced_loss(logits, target, self._confidence(batch), self.options.temperature, noise=self.training)
        if self.options.loss == "easy_examples":
            return easy_example_loss(logits, target, IGNORE_LABEL)
        if self.options.loss == "binary_cross_entropy":
            return binary_cross_entropy(logits, target, IGNORE_LABEL)
        return dice_loss(logits, target, IGNORE_LABEL) if self.options.loss == "dice" else _cross_entropy(logits, target)

    def _confidence(self, batch: dict[str, Tensor]) -> Tensor:
        """Of each output channel: the background's is 1 where the rule seeded it, which is where the pseudo-mask is 0.

        The tissues' is 0 there: eq. 4.9 overrules the CAMs in the same places.
        """
        confidence = batch["confidence"]
        if not self.network.has_background:
            return confidence
        seeded = (batch["target"] == 0)[:, None].to(confidence.dtype)
        return torch.cat([seeded, confidence * (1 - seeded)], dim=1)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.network.parameters(), self.schedule, self.total_steps)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """The mean over the pixels that count; a batch of padding alone teaches nothing, and must not be NaN."""
    counted = (target != IGNORE_LABEL).sum().clamp(min=1)
    return functional.cross_entropy(logits, target, ignore_index=IGNORE_LABEL, reduction="sum") / counted
