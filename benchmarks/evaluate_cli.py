"""`histoserve evaluate`: a mask and its truth to a table of scores."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from clients.errors import ClientError
from serving.command import run

from .errors import BenchmarkError
from .evaluate import Evaluation, evaluate_mask


@dataclass(frozen=True)
class EvaluateConfig:
    """Compare a written mask with its truth."""

    mask: Annotated[Path, tyro.conf.Positional]
    """The S.ome.zarr that `histoserve segment` wrote."""
    truth: Annotated[Path, tyro.conf.Positional]
    """Single-channel image of labels 0…C, of the mask's size."""
    json: bool = False
    """Print JSON instead of a table."""


def main(argv: Sequence[str]) -> int:
    """Evaluate; returns the exit code."""

    def call() -> int:
        config = tyro.cli(EvaluateConfig, prog="histoserve evaluate", args=list(argv))
        evaluation = evaluate_mask(config.mask, config.truth)
        if config.json:
            print(json.dumps(dataclasses.asdict(evaluation), indent=2))
        else:
            Console().print(evaluation_table({"IoU": evaluation}))
        return 0

    return run("histoserve evaluate", call, (BenchmarkError, ClientError))


def evaluation_table(evaluations: dict[str, Evaluation]) -> Table:
    """IoU per class, one row per name and protocol."""
    first = next(iter(evaluations.values()))
    table = Table(title="IoU per class (unmasked: glass counts; masked: truth background dropped)")
    for column in ("", "protocol", *first.class_names, "mIoU", "fwIoU"):
        table.add_column(column, justify="left" if column in ("", "protocol") else "right")
    for name, evaluation in evaluations.items():
        for scores in (evaluation.unmasked, evaluation.masked):
            values = (*scores.iou, scores.miou, scores.fwiou)
            table.add_row(name, scores.protocol, *(f"{value:.3f}" for value in values))
    return table
