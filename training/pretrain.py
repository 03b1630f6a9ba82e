"""Unsupervised pre-training (thesis §4.2): images without labels to an encoder that stage 1 starts from."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serving.contract import TissueTask
from serving.tasks import get_task

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .augment_views import photometric_view, spatial_view
from .encoder import Encoder, normalize, save_body
from .errors import RecipeError
from .fitting import Machine, fit, total_steps
from .nt_xent import inter_image_loss, intra_image_loss
from .schedule import Schedule, make_optimizer
from .unlabeled import Found, SlideTile, UnlabeledDataset, cut_tiles, find_unlabeled

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip

ENCODER_FILE = "encoder.pt"
PROVENANCE_FILE = "provenance.json"
_RECENT_STEPS = 50  # that the final losses are the mean of
_SEED_STRIDE = 1_000_003  # prime: steps of runs with different seeds share no draw until there are a million of them


@dataclass(frozen=True)
class PretrainConfig:
    """Pre-train an encoder on images without labels (NT-Xent, eq. 4.1). An interrupted run goes on after its last whole epoch."""

    output: Path
    """Folder that gets encoder.pt (for `histoserve train --weights`) and provenance.json."""
    encoder: str
    """timm name."""
    data: tuple[Path, ...] = ()
    """Folders of RGB images of any size: a random crop of each image per epoch."""
    slides: tuple[Path, ...] = ()
    """Whole slides, or folders of them: every tile with tissue per epoch."""
    exclude: Path | None = None
    """Text file with the names of images and slides that must not be seen, e.g. those of the evaluation; one a line."""
    task: str = "demo"
    """Gives the normalization, the tile and its scale."""
    tile_px: int | None = None
    """Side of crops and tiles, where it is not the task's."""
    scale: float = 1.0
    """Images of `data` are scaled by it: their micrometers per pixel over the task's."""
    mpp: float | None = None
    """Micrometers per pixel of the tiles of `slides`, where it is not the task's."""
    slide_mpp: float | None = None
    """Micrometers per pixel of the slides' level 0, where the files do not say or say wrong."""
    min_tissue: float = 0.25
    """Least share of a slide's tile that is tissue, by saturation."""
    stage: int = 3
    """Feature stage that the losses read; the encoder up to it is trained."""
    pretrained: bool = False
    """Start from timm's pretrained weights (needs its hub)."""
    weights: Path | None = None
    """Start from a local checkpoint file of the encoder."""
    schedule: Schedule = field(default_factory=lambda: Schedule("adamw", 1e-4, power=0.0, batch=6, epochs=20))
    max_steps: int | None = None
    """Stop after so many optimizer steps, where the schedule has more."""
    inter_weight: float = 0.5
    """λ_inter of eq. 4.1."""
    temperature: float = 0.1
    """τ of eq. 3.1, for which the thesis gives no value."""
    max_cells: int = 64
    """Cells drawn of each image for the intra-image loss, whose cost is quadratic."""
    machine: Machine = field(default_factory=Machine)
    seed: int = 0


class Pretraining(lightning.LightningModule):
    """L = L_intra + λ_inter·L_inter (eq. 4.1).

    Every draw follows from the seed and the step or epoch, so that a run that goes on sees what it would have seen without the interruption.

    Attributes:
        recent: L_intra and L_inter of the last steps.
    """

    def __init__(self, encoder: Encoder, task: TissueTask, config: PretrainConfig, steps: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.task = task
        self.config = config
        self.total_steps = steps
        self.recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=_RECENT_STEPS)

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(self.config.seed * _SEED_STRIDE + self.current_epoch)  # of the order and the crops

    def training_step(self, images: Tensor, batch_index: int) -> Tensor:
        """The loss of a batch, uint8 (B, 3, H, W)."""
        config = self.config
        generator = torch.Generator().manual_seed((config.seed * _SEED_STRIDE + self.global_step << 10) + self.global_rank)
        views = torch.cat([images, photometric_view(images, generator), spatial_view(images, generator)])
        mean, std = self.task.normalization.mean, self.task.normalization.std
        own, photometric, spatial = self.encoder(normalize(views, mean, std))[-1].chunk(3)
        intra = intra_image_loss(own, photometric, config.temperature, config.max_cells, generator)
        inter = inter_image_loss(own, spatial, config.temperature)
        self.log("intra", intra.detach(), prog_bar=True)
        self.log("inter", inter.detach(), prog_bar=True)
        self.recent.append((intra.detach(), inter.detach()))
        return intra + config.inter_weight * inter

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.encoder.parameters(), self.config.schedule, self.total_steps)


def pretrain(config: PretrainConfig) -> Path:
    """Pre-train; returns the path of the encoder's weights. A finished run is not trained again.

    Raises:
        TrainingError: data, settings, schedule or encoder cannot be used, the folder holds a run of another kind, or the training diverged.
    """
    _check(config)
    task = get_task(config.task)
    tile_px = config.tile_px or task.tile_px
    found = find_unlabeled(config.data, config.slides, config.exclude)
    tiles, without_tissue = _cut_slides(config, found, tile_px, config.mpp or task.mpp)
    counts = {"images": len(found.images), "slides": len(found.slides), "tiles": len(tiles), "tiles_without_tissue": without_tissue}
    _say_what_is_read(counts, found)
    content = _provenance(config, found, tiles, counts)
    path = config.output / ENCODER_FILE
    if _begin(config.output, content) and path.exists():
        return path
    lightning.seed_everything(config.seed, verbose=False)
    started_s = time.monotonic()
    encoder = Encoder(config.encoder, (config.stage,), config.pretrained, config.weights, image_px=tile_px)
    if tile_px < 2 * encoder.strides[-1]:
        raise RecipeError(
            f"--stage {config.stage}: expected at least 2×2 cells, {tile_px} px have fewer: a lower stage or larger --tile-px"
        )
    dataset = UnlabeledDataset(found.images, tile_px, config.scale, tiles)
    schedule = _within_budget(config, len(dataset))
    module = Pretraining(encoder, task, config, total_steps(len(dataset), schedule, "schedule"))
    fit(module, dataset, schedule, config.output / "pretraining", config.machine)
    if not all(value.isfinite().all() for value in encoder.state_dict().values()):
        raise RecipeError(f"{config.output}: expected finite weights, training diverged: lower --schedule.learning-rate")
    if module.trainer.is_global_zero:
        outcome = {"steps": module.trainer.global_step, "final_losses": _final_losses(module)}
        _write(config.output, content | outcome | {"seconds": round(time.monotonic() - started_s, 1)})
        save_body(path, encoder)  # last: where it is, the run is finished
    return path


def _check(config: PretrainConfig) -> None:
    limits: dict[str, tuple[float | None, float, float]] = {  # flag: value, least, most
        "tile-px": (config.tile_px, 32, 4096),
        "scale": (config.scale, 0.01, 100),
        "mpp": (config.mpp, 0.05, 20),
        "slide-mpp": (config.slide_mpp, 0.05, 20),
        "min-tissue": (config.min_tissue, 0, 1),
        "max-steps": (config.max_steps, 1, float("inf")),
        "inter-weight": (config.inter_weight, 0, float("inf")),
        "temperature": (config.temperature, 1e-3, 100),
        "max-cells": (config.max_cells, 2, float("inf")),
        "seed": (config.seed, 0, 2**31),
    }
    for flag, (value, least, most) in limits.items():
        if value is not None and not least <= value <= most:
            raise RecipeError(f"--{flag}: expected {least}…{most}, got {value}")


def _cut_slides(config: PretrainConfig, found: Found, tile_px: int, mpp: float) -> tuple[list[SlideTile], int]:
    cut = [cut_tiles(slide, tile_px, mpp, config.slide_mpp, config.min_tissue) for slide in found.slides]
    return [tile for tiles, _ in cut for tile in tiles], sum(without for _, without in cut)


def _within_budget(config: PretrainConfig, size: int) -> Schedule:
    planned = total_steps(size, config.schedule, "schedule")
    if config.max_steps is None or config.max_steps >= planned:
        return config.schedule
    return dataclasses.replace(config.schedule, steps=config.max_steps)


def _final_losses(module: Pretraining) -> dict[str, float | None]:
    """Means of the last steps; None where this process trained none, the run having been interrupted right at its end."""
    values = list(zip(*module.recent, strict=True)) or [(), ()]
    means = [statistics.fmean(map(float, value)) if value else None for value in values]
    return {"intra": means[0], "inter": means[1]}


def _say_what_is_read(counts: dict[str, int], found: Found) -> None:
    """One line on stderr: what was left out is never left out silently."""
    left = [f"{len(found.excluded)} excluded", *(f"{count} {suffix}" for suffix, count in sorted(found.other_files.items()))]
    read = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    print(f"pretraining  {read}; left out: {', '.join(left)}", file=sys.stderr, flush=True)


def _provenance(config: PretrainConfig, found: Found, tiles: list[SlideTile], counts: dict[str, int]) -> dict[str, Any]:
    """How the encoder comes to be, without where the data lay on this machine."""
    settings = dataclasses.asdict(config)
    for name in ("data", "slides", "output", "exclude", "machine"):  # places and speed: another of them gives the same run
        del settings[name]
    settings["weights"] = config.weights and config.weights.name
    names = [path.name for path in found.images] + [f"{tile.slide.name} {tile.x_l0} {tile.y_l0}" for tile in tiles]
    return {
        "command": sys.argv[1:],
        "data": [place.name for place in (*config.data, *config.slides)],
        "counts": counts,
        "excluded": [path.name for path in found.excluded],
        "other_files": found.other_files,
        "content": hashlib.sha256("\n".join(names).encode()).hexdigest(),
        "settings": settings,
        "versions": {name: importlib.metadata.version(name) for name in ("histoserve", "torch", "torchvision", "timm", "lightning")},
    }


def _begin(folder: Path, content: dict[str, Any]) -> bool:
    """Whether this run began here before; if not, its settings are noted, so that no other run goes on from its checkpoint.

    Raises:
        RecipeError: another run began here.
    """
    path = folder / PROVENANCE_FILE
    if not path.exists():
        _write(folder, content)
        return False
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in ("settings", "content") if earlier.get(key) != json.loads(json.dumps(content[key]))]
    except (ValueError, AttributeError) as error:
        raise RecipeError(
            f"{path}: expected the provenance of this run, got {error}: remove the folder or choose another --output"
        ) from error
    if changed:
        what = {"settings": "other settings", "content": "other images"}[changed[0]]
        raise RecipeError(f"{folder}: expected the run that began there, got {what}: remove the folder or choose another --output")
    return True


def _write(folder: Path, content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (PROVENANCE_FILE + ".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / PROVENANCE_FILE)
