"""MLPS (Han et al. 2022) as stages: classifier with progressive dropout attention → pseudo-masks of several levels → segmenter on all of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .classifier import Classifier
from .dropout_attention import DropoutAttentionOptions, ProgressiveDropout
from .encoder import normalize
from .fitting import fit, total_steps
from .patch_dataset import PatchDataset
from .schedule import Schedule, make_optimizer
from .stages import Stage
from .steps import Run, do_or_load, make_classifier, network_settings, segment, write_cam_masks

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip

HAS_BACKGROUND = False  # as the published code: C channels, background out of the loss


def train_mlps(run: Run) -> tuple[Classifier, nn.Module]:
    """Both networks."""
    first, classifier = _classify(run)
    stages, targets = write_cam_masks(run, first, classifier)
    return classifier, segment(run, targets, stages, HAS_BACKGROUND, start=classifier)


class DropoutStage(lightning.LightningModule):
    """Classifier of image-level labels whose strongest places are dropped more and more."""

    def __init__(
        self, network: Classifier, task: TissueTask, schedule: Schedule, options: DropoutAttentionOptions, total_steps: int
    ) -> None:
        super().__init__()
        self.network = network
        self.dropout = ProgressiveDropout(options)
        self.task = task
        self.schedule = schedule
        self.total_steps = total_steps

    def on_train_epoch_start(self) -> None:
        self.dropout.set_epoch(self.current_epoch)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        features = self.network.features(normalize(batch["image"], self.task.normalization.mean, self.task.normalization.std))
        logits = self.network.classify(self.dropout(features, self.network.head.weight))[1]
        loss = functional.multilabel_soft_margin_loss(logits, batch["labels"])
        self.log("mlsm", loss.detach(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.network.parameters(), self.schedule, self.total_steps)


def _classify(run: Run) -> tuple[Stage, Classifier]:
    config = run.config
    settings = {**network_settings(config), "stages": config.cam_stages, "final_norm": config.final_norm}
    settings |= {"schedule": dataclasses.asdict(config.stage1), "dropout": dataclasses.asdict(config.dropout)}
    stage = run.stage("stage1", settings)

    def train(folder: Path) -> Classifier:
        lightning.seed_everything(config.seed, verbose=False)
        network = make_classifier(run)
        dataset = PatchDataset(run.samples, run.task, config.augmentation, config.seed)
        steps = total_steps(len(dataset), config.stage1, "stage1")
        fit(DropoutStage(network, run.task, config.stage1, config.dropout, steps), dataset, config.stage1, folder, config.machine)
        return network

    return stage, do_or_load(stage, train)
