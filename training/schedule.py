"""How a stage is optimized: optimizer, polynomial decay, epochs. Knows no method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from . import torchvision_schemas  # noqa: F401  must precede lightning

from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip

Optimizer = Literal["sgd", "adamw"]


@dataclass(frozen=True)
class Schedule:
    """How one stage is optimized.

    Attributes:
        optimizer: sgd (thesis stage 1, without momentum) or adamw (stage 2).
        power: of the polynomial decay per iteration; 0 = constant.
        epoch_decay: factor of the learning rate per epoch (PistoSeg: 0.9); 1 = none. With `steps`, `epochs` equal parts of them stand for epochs.
        momentum: of sgd.
        steps: a budget of optimizer steps in place of epochs.
    """

    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    power: float = 0.9
    epoch_decay: float = 1.0
    momentum: float = 0.0
    batch: int = 16
    epochs: int = 5
    steps: int | None = None


def make_optimizer(parameters: Iterable[nn.Parameter], schedule: Schedule, total_steps: int) -> OptimizerLRSchedulerConfig:
    """The stage's optimizer with its decay per iteration, as Lightning takes it."""
    optimizer: torch.optim.Optimizer
    if schedule.optimizer == "sgd":
        optimizer = torch.optim.SGD(parameters, lr=schedule.learning_rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay)
    else:
        optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: decay_factor(schedule, step, total_steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}


def decay_factor(schedule: Schedule, step: int, total_steps: int) -> float:
    """Of the learning rate at a step, 0…1."""
    epoch = step * schedule.epochs // total_steps
    factor: float = max(0.0, 1 - step / total_steps) ** schedule.power * schedule.epoch_decay**epoch
    return factor
