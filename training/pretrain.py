"""Unsupervised pre-training (thesis §4.2): images without labels to an encoder that stage 1 starts from."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from serving.contract import TissueTask
from serving.tasks import get_task

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .augment_views import photometric_view, spatial_view
from .encoder import Encoder, normalize, save_body
from .fitting import Machine, fit, total_steps
from .nt_xent import inter_image_loss, intra_image_loss
from .schedule import Schedule, make_optimizer
from .unlabeled import UnlabeledDataset, list_unlabeled

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip

ENCODER_FILE = "encoder.pt"


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train an encoder on images without labels (NT-Xent, eq. 4.1). An interrupted run goes on."""

    data: tuple[Path, ...]
    """Folders of images of any size, at the task's scale."""
    output: Path
    """Folder that gets encoder.pt (for `histoserve train --weights`) and provenance.json."""
    encoder: str
    """timm name."""
    exclude: Path | None = None
    """Text file with the names of images that must not be seen, e.g. those of the evaluation; one a line."""
    task: str = "demo"
    """Gives the normalization and the tile."""
    tile_px: int | None = None
    """Side of the crops, where it is not the task's."""
    stage: int = 3
    """Feature stage that the losses read; the encoder up to it is trained."""
    schedule: Schedule = field(default_factory=lambda: Schedule("adamw", 1e-4, power=0.0, batch=6, epochs=20))
    inter_weight: float = 0.5
    """λ_inter of eq. 4.1."""
    temperature: float = 0.1
    max_cells: int = 64
    """Cells drawn of each image for the intra-image loss, whose cost is quadratic."""
    machine: Machine = field(default_factory=Machine)
    seed: int = 0


class Pretraining(lightning.LightningModule):
    """L = L_intra + λ_inter·L_inter (eq. 4.1)."""

    def __init__(self, encoder: Encoder, task: TissueTask, config: PretrainConfig, steps: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.task = task
        self.config = config
        self.total_steps = steps
        self.generator = torch.Generator().manual_seed(config.seed)

    def training_step(self, images: Tensor, batch_index: int) -> Tensor:
        views = torch.cat([images, photometric_view(images), spatial_view(images)])
        mean, std = self.task.normalization.mean, self.task.normalization.std
        own, photometric, spatial = self.encoder(normalize(views, mean, std))[-1].chunk(3)
        config = self.config
        intra = intra_image_loss(own, photometric, config.temperature, config.max_cells, self.generator)
        inter = inter_image_loss(own, spatial, config.temperature)
        self.log("intra", intra.detach(), prog_bar=True)
        self.log("inter", inter.detach(), prog_bar=True)
        return intra + config.inter_weight * inter

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.encoder.parameters(), self.config.schedule, self.total_steps)


def pretrain(config: PretrainConfig) -> Path:
    """Pre-train; returns the path of the encoder's weights.

    Raises:
        TrainingError: data, schedule or encoder cannot be used.
    """
    task = get_task(config.task)
    images = list_unlabeled(config.data, config.exclude)
    lightning.seed_everything(config.seed, verbose=False)
    tile_px = config.tile_px or task.tile_px
    encoder = Encoder(config.encoder, (config.stage,), image_px=tile_px)
    dataset = UnlabeledDataset(images, tile_px)
    module = Pretraining(encoder, task, config, total_steps(len(dataset), config.schedule, "schedule"))
    fit(module, dataset, config.schedule, config.output / "pretraining", config.machine)
    path = config.output / ENCODER_FILE
    save_body(path, encoder)
    _write_provenance(config, len(images))
    return path


def _write_provenance(config: PretrainConfig, images: int) -> None:
    versions = {name: importlib.metadata.version(name) for name in ("histoserve", "torch", "timm", "lightning")}
    settings = dataclasses.asdict(config)
    content = {
        "command": sys.argv[1:],
        "images": images,
        "settings": {key: value for key, value in settings.items() if key not in ("data", "output", "exclude")},
        "data": [folder.name for folder in config.data],
        "versions": versions,
    }
    (config.output / "provenance.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
