"""`histoserve demo`: run the demo and print its figures."""

from __future__ import annotations

from collections.abc import Sequence

import tyro
from rich.console import Console

from clients.errors import ClientError
from serving.command import run
from serving.errors import ServingError

from .demo import DemoConfig, as_lines, run_demo
from .errors import BenchmarkError
from .evaluate_cli import scores_table


def main(argv: Sequence[str]) -> int:
    """Run the demo; returns the exit code."""

    def call() -> int:
        config = tyro.cli(DemoConfig, prog="histoserve demo", args=list(argv))
        result = run_demo(config)
        console = Console()
        scores = {name: (evaluation.unmasked, evaluation.masked) for name, evaluation in result.evaluations.items()}
        console.print(scores_table(scores, result.evaluations["stage2"].class_names))
        for line in as_lines(result, config.repository):
            console.print(line, highlight=False, soft_wrap=True)
        return 0

    return run("histoserve demo", call, (BenchmarkError, ClientError, ServingError))
