"""`histoserve pretrain`: images without labels to encoder weights."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from serving.command import run
from serving.contract import ContractError

from .errors import TrainingError
from .pretrain import PretrainConfig, pretrain
from .recipe import expand_recipes


def main(argv: Sequence[str]) -> int:
    """Pre-train; returns the exit code."""

    def call() -> int:
        config = tyro.cli(PretrainConfig, prog="histoserve pretrain", args=expand_recipes(argv))
        print(f"encoder: {pretrain(config)}")
        return 0

    return run("histoserve pretrain", call, (TrainingError, ContractError))
