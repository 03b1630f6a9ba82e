"""The PSCL recipe from a folder of patches to a checkpoint: stage 1, pseudo-masks, stage 2. Knows the order; each step lives in its own module."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from serving.contract import TissueTask
from serving.tasks import get_task

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .checkpoint import Checkpoint, save
from .classifier import Classifier, ClassifierConfig
from .encoder import copy_encoder
from .errors import DataError, RecipeError
from .patch_dataset import Augmentation, PatchDataset, PatchSample
from .patches import read_folder
from .pseudomask import write_pseudo_masks
from .schedule import Schedule
from .segmenter import Segmenter, SegmenterConfig
from .stage_one import PsclOptions, StageOne
from .stage_two import StageTwo

import lightning  # isort: skip


@dataclass(frozen=True)
class TrainConfig:
    """Learn a segmenter from image-level labels (PSCL). `@recipe.toml` stands for the flags in it."""

    data: Path
    """Folder with images/ and labels.csv; a masks/ folder in it is never opened."""
    output: Path
    """Folder that gets checkpoint.pt and pseudo_masks/."""
    task: str = "demo"
    """One of the tasks in serving/tasks.py."""
    encoder: str = "swin_tiny_patch4_window7_224"
    """timm name of the encoder of both stages."""
    cam_stages: tuple[int, ...] = (3,)
    """Feature stages that the classifier's head reads; several are fused on the finest grid."""
    decoder_stages: tuple[int, ...] = (0, 1, 2, 3)
    """Feature stages that the decoder fuses."""
    decoder_width: int = 256
    """Channels of the pixel decoder."""
    pretrained: bool = False
    """Start from timm's pretrained weights (needs its hub)."""
    weights: Path | None = None
    """Start from a local checkpoint file of the encoder."""
    stage1: Schedule = field(default_factory=Schedule)
    stage2: Schedule = field(default_factory=lambda: Schedule("adamw", 1e-4, power=0.0, batch=32, epochs=20))
    pscl: PsclOptions = field(default_factory=PsclOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0


class _EpochLines(lightning.Callback):
    """One line per epoch on stderr: what a log file needs where a progress bar is no use."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        figures = "  ".join(f"{name} {float(value):.3f}" for name, value in trainer.callback_metrics.items())
        elapsed_s = time.monotonic() - self.started_s
        print(
            f"{self.stage}  epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {figures}  {elapsed_s:.0f} s",
            file=sys.stderr,
            flush=True,
        )


def train_pscl(config: TrainConfig) -> Path:
    """Train both stages; returns the checkpoint's path.

    Raises:
        TrainingError: data, recipe or encoder cannot be used.
    """
    task = get_task(config.task)
    samples = _read_samples(config, task)
    lightning.seed_everything(config.seed, verbose=False)
    started_s = time.monotonic()
    classifier = train_classifier(config, task, samples)
    targets = write_pseudo_masks(classifier, samples, task, config.output / "pseudo_masks")
    stage1_s = time.monotonic() - started_s
    segmenter = train_segmenter(config, task, targets, classifier)
    figures = {"patches": len(samples), "stage1_s": round(stage1_s, 1), "stage2_s": round(time.monotonic() - started_s - stage1_s, 1)}
    path = config.output / "checkpoint.pt"
    save(path, Checkpoint(task, "pscl", classifier.eval(), segmenter.eval(), _provenance(config) | figures))
    return path


def train_classifier(config: TrainConfig, task: TissueTask, samples: Sequence[PatchSample]) -> Classifier:
    """Stage 1."""
    network = Classifier(ClassifierConfig(config.encoder, config.cam_stages, len(task.classes)), config.pretrained, config.weights)
    dataset = PatchDataset(samples, task, config.augmentation, config.seed)
    module = StageOne(network, task, config.stage1, config.pscl, _total_steps(dataset, config.stage1), config.seed)
    fit(module, dataset, config.stage1, "stage 1")
    return network


def train_segmenter(config: TrainConfig, task: TissueTask, targets: Sequence[PatchSample], classifier: Classifier) -> Segmenter:
    """Stage 2: the encoder starts from stage 1's."""
    network = Segmenter(SegmenterConfig(config.encoder, config.decoder_stages, len(task.classes), config.decoder_width))
    copy_encoder(classifier.encoder, network.encoder)
    dataset = PatchDataset(targets, task, config.augmentation, config.seed + 1)
    module = StageTwo(network, task, config.stage2, _total_steps(dataset, config.stage2))
    fit(module, dataset, config.stage2, "stage 2")
    return network


def fit(module: lightning.LightningModule, dataset: PatchDataset, schedule: Schedule, stage: str) -> None:
    """Run Lightning's loop over the data set."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # A last batch of one image would break batch normalization.
    loader = DataLoader(dataset, batch_size=schedule.batch, shuffle=True, drop_last=len(dataset) > schedule.batch)
    trainer = lightning.Trainer(
        max_epochs=schedule.epochs,
        accelerator="auto",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        callbacks=[_EpochLines(stage)],
    )
    with warnings.catch_warnings():
        # The augmentation's generator lives in the data set: one process keeps it seeded, and decoding is not the bottleneck.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Raised inside Lightning 2.6 by its own use of torch's pytree.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
        # A small data set has fewer batches than Lightning's logging interval; nothing is logged to a logger here.
        warnings.filterwarnings("ignore", message=".*The number of training batches.*")
        trainer.fit(module, loader)


def _read_samples(config: TrainConfig, task: TissueTask) -> list[PatchSample]:
    records = read_folder(config.data, task.class_names)
    samples = [PatchSample(record.image, record.labels) for record in records if any(record.labels)]
    missing = [name for index, name in enumerate(task.class_names) if not any(sample.labels[index] for sample in samples)]
    if missing:
        raise DataError(f"{config.data}: expected patches of every class of task {task.name!r}, found none of {', '.join(missing)}")
    return samples


def _total_steps(dataset: PatchDataset, schedule: Schedule) -> int:
    if schedule.batch < 2 or schedule.epochs < 1:
        raise RecipeError(f"schedule: expected a batch of at least 2 and at least 1 epoch, got {schedule.batch} and {schedule.epochs}")
    return schedule.epochs * max(1, math.floor(len(dataset) / schedule.batch))


def _provenance(config: TrainConfig) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in ("histoserve", "torch", "timm", "lightning", "pytorch-metric-learning")}
    recipe = {key: _plain(value) for key, value in dataclasses.asdict(config).items()}
    return {"command": sys.argv[1:], "versions": versions, "recipe": recipe, "device": str(torch.get_default_device())}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
