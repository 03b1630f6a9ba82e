"""PSCL stage 2 as a Lightning module (thesis §4.4): a segmenter learns pseudo-masks. Knows the method, not where data or results lie."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .datasets.placement import IGNORE_LABEL
from .encoder import normalize
from .schedule import Schedule, make_optimizer
from .segmenter import Segmenter

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip


class StageTwo(lightning.LightningModule):
    """Segmenter trained on stage 1's pseudo-masks as if they were truth: cross-entropy over 0…C (thesis §4.4)."""

    def __init__(self, network: Segmenter, task: TissueTask, schedule: Schedule, total_steps: int) -> None:
        super().__init__()
        self.network = network
        self.task = task
        self.schedule = schedule
        self.total_steps = total_steps

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        logits = self.network(normalize(batch["image"], self.task.normalization.mean, self.task.normalization.std))
        full = functional.interpolate(logits, size=batch["target"].shape[1:], mode="bilinear", align_corners=False)
        # The mean over the pixels that count; a batch of padding alone teaches nothing, and must not be NaN.
        counted = (batch["target"] != IGNORE_LABEL).sum().clamp(min=1)
        loss = functional.cross_entropy(full, batch["target"], ignore_index=IGNORE_LABEL, reduction="sum") / counted
        self.log("cross_entropy", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.network.parameters(), self.schedule, self.total_steps)
