"""`histoserve train`: flags and recipes to a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from serving.command import run
from serving.contract import ContractError

from .errors import TrainingError
from .recipe import expand_recipes
from .train import train
from .train_config import TrainConfig


def main(argv: Sequence[str]) -> int:
    """Train; returns the exit code."""

    def call() -> int:
        config = tyro.cli(TrainConfig, prog="histoserve train", args=expand_recipes(argv))
        print(f"checkpoint: {train(config)}")
        return 0

    return run("histoserve train", call, (TrainingError, ContractError))
