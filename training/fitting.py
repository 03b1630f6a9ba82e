"""Lightning's loop over one stage: device, precision, logs, and going on where an interrupted run stopped. Knows no method."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .errors import RecipeError
from .schedule import Schedule

import lightning  # isort: skip
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar  # isort: skip
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger  # isort: skip

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
_LAST = "last.ckpt"
_SEED_STRIDE = 1_000_003  # prime: runs of different seeds share no order until there are a million epochs


@dataclass(frozen=True)
class Machine:
    """What training runs on and what it leaves behind."""

    precision: Precision = "32-true"
    """Automatic mixed precision with bf16-mixed or 16-mixed."""
    devices: int = 1
    """Accelerators to use, where there are any."""
    workers: int = 0
    """Processes that read patches; 0 reads in the training process."""
    log: Literal["csv", "tensorboard", "none"] = "csv"
    """Curves of the losses, under the stage's folder."""


def fit(module: lightning.LightningModule, dataset: Dataset[Any], schedule: Schedule, folder: Path, machine: Machine) -> None:
    """Train a stage; an interrupted one goes on after its last whole epoch.

    Args:
        dataset: shuffled anew every epoch, by torch's seed and the number of the epoch.
        folder: of the stage; holds the curves and, until the stage is done, the last checkpoint.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / _LAST
    # A last batch of one image would break batch normalization.
    loader = DataLoader(
        dataset,
        batch_size=schedule.batch,
        sampler=EpochOrder(len(dataset), torch.initial_seed()),  # type: ignore[arg-type]
        drop_last=True,
        generator=torch.Generator().manual_seed(torch.initial_seed()),  # of the workers' seeds: torch's own stays untouched
        num_workers=machine.workers,
        persistent_workers=machine.workers > 0,
    )
    trainer = lightning.Trainer(
        max_steps=-1 if schedule.steps is None else schedule.steps,
        max_epochs=schedule.epochs if schedule.steps is None else -1,
        accelerator="auto",
        devices=machine.devices,
        precision=machine.precision,
        logger=_logger(folder, machine),
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        log_every_n_steps=max(1, min(10, len(loader))),
        callbacks=_callbacks(folder),
    )
    with warnings.catch_warnings():
        # Decoding is not the bottleneck on the machines this was measured on; --machine.workers is there for others.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Raised inside Lightning 2.6 by its own use of torch's pytree.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
        # A small data set has fewer batches than the logging interval.
        warnings.filterwarnings("ignore", message=".*The number of training batches.*")
        # Our own stage folder, which a run that goes on finds filled.
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        trainer.fit(module, loader, ckpt_path=str(last) if last.exists() else None, weights_only=False)
    last.unlink(missing_ok=True)


class EpochOrder(Sampler[int]):
    """A shuffled order that follows from the seed and the epoch alone, so that a run that goes on sees what it would have seen.

    Lightning tells it the epoch.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed * _SEED_STRIDE + self.epoch) % 2**63)
        yield from torch.randperm(self.size, generator=generator).tolist()


def total_steps(size: int, schedule: Schedule, stage: str) -> int:
    """Optimizer steps of a stage, which the polynomial decay runs over.

    Raises:
        RecipeError: a schedule that cannot train, or fewer patches than one batch.
    """
    if schedule.batch < 2 or schedule.epochs < 1 or (schedule.steps is not None and schedule.steps < 1):
        raise RecipeError(f"{stage}: expected a batch of at least 2 and at least 1 epoch or step, got {schedule}")
    if size < schedule.batch:
        raise RecipeError(f"{stage}: expected at least one batch of {schedule.batch} patches, got {size}: give a smaller --{stage}.batch")
    return schedule.steps if schedule.steps is not None else schedule.epochs * (size // schedule.batch)


def _logger(folder: Path, machine: Machine) -> Logger | bool:
    if machine.log == "none":
        return False
    if machine.log == "csv":
        return CSVLogger(folder, name="", version="")
    try:
        return TensorBoardLogger(folder, name="", version="")
    except ModuleNotFoundError as error:
        raise RecipeError("--machine.log tensorboard: expected the package tensorboard, found none: pip install tensorboard") from error


def _callbacks(folder: Path) -> list[Callback]:
    checkpoint = ModelCheckpoint(dirpath=folder, filename=_LAST.removesuffix(".ckpt"), save_top_k=1, enable_version_counter=False)
    callbacks: list[Callback] = [checkpoint, _EpochLines(folder.name)]
    return [*callbacks, RichProgressBar()] if sys.stderr.isatty() else callbacks


class _EpochLines(Callback):
    """One line per epoch on stderr: what a log file needs, where a progress bar is no use."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        figures = "  ".join(f"{name} {float(value):.3f}" for name, value in trainer.callback_metrics.items())
        epochs = f"/{trainer.max_epochs}" if trainer.max_epochs != -1 else f", step {trainer.global_step}/{trainer.max_steps}"
        elapsed_s = time.monotonic() - self.started_s
        print(f"{self.stage}  epoch {trainer.current_epoch + 1}{epochs}  {figures}  {elapsed_s:.0f} s", file=sys.stderr, flush=True)
