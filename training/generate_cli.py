"""`histoserve generate`: annotated tissue that nobody had to annotate."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from serving.command import run
from serving.contract import ContractError

from .errors import TrainingError
from .generate import GenerateConfig, generate


def main(argv: Sequence[str]) -> int:
    """Generate; returns the exit code."""

    def call() -> int:
        config = tyro.cli(GenerateConfig, prog="histoserve generate", args=list(argv))
        print(f"generated: {generate(config)}")
        return 0

    return run("histoserve generate", call, (TrainingError, ContractError))
