"""`histoserve export`: a checkpoint to a checked release in the model repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from serving.command import run
from serving.contract import ContractError
from serving.errors import ServingError
from training.checkpoint import load
from training.errors import TrainingError

from .canary import canary_tiles
from .errors import ExportError
from .graphs import KindGraphs, export_checkpoint
from .layout import entry_name, parse_model_name
from .provenance import provenance
from .release import Draft
from .repository import publish
from .tiles import parity_tiles


@dataclass(frozen=True)
class ExportConfig:
    """Export a checkpoint to ONNX, check it against torch and publish it as the next release."""

    checkpoint: tyro.conf.Positional[Path]
    """File that `histoserve train` wrote."""
    repository: Path = Path("model_repository")
    """Model repository that gets the release; made where it does not exist."""
    name: str = "demo"
    """Name of the model: callers use NAME_segment and NAME_cam."""
    tiles: Path | None = None
    """Folder of at least 8 images of the task, at its scale, to measure parity on. The task demo generates its own."""


def export(config: ExportConfig, arguments: Sequence[str], console: Console) -> None:
    """Export, check and publish.

    Args:
        arguments: the command line, for the release's notes.
    """
    parse_model_name(config.name)
    checkpoint = load(config.checkpoint)
    tiles = parity_tiles(checkpoint.task, config.tiles)
    graphs = export_checkpoint(checkpoint, tiles)
    console.print(parity_table(graphs))
    source = f"{len(tiles)} of {config.tiles.name}" if config.tiles else f"{len(tiles)} generated"
    notes = provenance(config.checkpoint, checkpoint, arguments, source)
    release = publish(
        config.repository, config.name, Draft(checkpoint.task, checkpoint.method, graphs, canary_tiles(checkpoint.task.tile_px), notes)
    )
    for kind in release.kinds:
        console.print(f"{entry_name(config.name, kind)} now answers as {release.frozen(kind)}", soft_wrap=True)
    console.print(
        f"release: {config.repository / release.frozen(release.kinds[0])} and {len(release.models) - 1} more models", soft_wrap=True
    )


def parity_table(graphs: Sequence[KindGraphs]) -> Table:
    """The figures of every graph beside their limits."""
    table = Table(title="parity with torch")
    for heading in ("graph", "figure", "value", "limit"):
        table.add_column(heading, justify="right" if heading == "value" else "left")
    for report in (report for kind in graphs for report in kind.reports):
        for figure in report.figures:
            table.add_row(report.graph, figure.name, f"{figure.value:.6g}", figure.limit)
    return table


def main(argv: Sequence[str]) -> int:
    """Export; returns the exit code."""

    def call() -> int:
        config = tyro.cli(ExportConfig, prog="histoserve export", args=list(argv))
        export(config, argv, Console())
        return 0

    return run("histoserve export", call, (ExportError, TrainingError, ServingError, ContractError))
