"""`histoserve mosaics`: images of one class each to a data set with exact truth."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from serving.command import run
from serving.contract import ContractError

from .errors import TrainingError
from .mosaic_set import MosaicSetConfig, write_mosaic_set


def main(argv: Sequence[str]) -> int:
    """Compose; returns the exit code."""

    def call() -> int:
        config = tyro.cli(MosaicSetConfig, prog="histoserve mosaics", args=list(argv))
        print(f"mosaics: {write_mosaic_set(config)}")
        return 0

    return run("histoserve mosaics", call, (TrainingError, ContractError))
