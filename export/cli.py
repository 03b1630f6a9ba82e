"""`histoserve export`: a checkpoint to a checked release in the model repository; with --check, --list, --remove or --rollback what follows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro
from rich.console import Console

from serving.command import run
from serving.contract import ContractError, Kind
from serving.errors import ServingError
from training.checkpoint import Checkpoint, load
from training.errors import TrainingError

from . import check_cli, releases_cli
from .canary import canary_tiles
from .card import read_metrics
from .convert import PrecisionOptions
from .errors import ExportError, ParityError
from .graphs import KindGraphs, export_checkpoint
from .layout import entry_name, parse_model_name
from .parity import Precision
from .parity_report import report_folder, write_parity_report
from .parity_table import cost_table, parity_table
from .provenance import provenance
from .release import Draft
from .repository import publish
from .targets import TARGETS, GpuTarget, Target, TargetName
from .tensorrt_engine import build_engine
from .tensorrt_rules import check_tensorrt
from .tensorrt_runtime import graph_inputs
from .tiles import parity_tiles, read_scored_tiles, read_tiles

PROGRAM = "histoserve export"
# Each with options of its own: a release is checked and moved without a checkpoint.
ACTIONS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "--check": check_cli.main,
    "--list": releases_cli.list_main,
    "--remove": releases_cli.remove_main,
    "--rollback": releases_cli.rollback_main,
}


@dataclass(frozen=True)
class ExportConfig:
    """Export a checkpoint to ONNX, check it against torch in every engine that is there, and publish it as the next release.

    Of what is published: histoserve export --list | --check MODEL | --rollback RELEASE | --remove RELEASE, each with --help.
    """

    checkpoint: tyro.conf.Positional[Path]
    """File that `histoserve train` wrote."""
    repository: Path = Path("model_repository")
    """Model repository that gets the release; made where it does not exist."""
    name: str = "demo"
    """Name of the model: callers use NAME_segment and NAME_cam."""
    tiles: Path | None = None
    """Folder of at least 8 images of the task, at its scale, to measure parity on. The task demo generates its own."""
    precision: Precision = "fp32"
    """fp16 is refused where a tile's activations leave its range, int8 where it is not faster here or loses too much."""
    calibration: Path | None = None
    """Folder of at least 8 images to calibrate int8 on; others than --tiles."""
    truth: Path | None = None
    """Folder of masks (PNG, 0, 1…C, 255 = not annotated) of the images of --tiles: what a precision loses is then measured against them."""
    max_miou_loss: float = 1.0
    """Of int8, points of mean IoU against --truth, or without it against the labels of fp32."""
    target: TargetName | None = None
    """What the release is to run on: queues, threads, instances, accelerators of its config.pbtxt. Without it, wherever Triton is."""
    engines: Path | None = None
    """With --target gpu: build TensorRT engines here, in this folder, and publish them; they run on this kind of GPU and this TensorRT alone.
    Without it Triton's ONNX Runtime backend builds them when it starts."""
    metrics: Path | None = None
    """What `histoserve evaluate --json` printed of this model, for its card: of the segmenter, or of the CAMs where there is none."""
    report: Path = Path(".")
    """Folder that gets parity-failed-NAME with the worst tiles where the gate fails."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        if self.engines is not None and self.target != "gpu":
            raise ValueError(f"--engines {self.engines}: expected --target gpu beside it, got {self.target or 'none'}")
        if self.truth is not None and (self.tiles is None or self.precision == "fp32"):
            raise ValueError(f"--truth {self.truth}: expected --tiles, whose masks they are, and --precision fp16 or int8")


def export(config: ExportConfig, arguments: Sequence[str], console: Console) -> None:
    """Export, check and publish.

    Args:
        arguments: the command line, for the release's notes.
    """
    parse_model_name(config.name)
    checkpoint = load(config.checkpoint)
    task = checkpoint.task
    metrics = None if config.metrics is None else read_metrics(config.metrics, task.class_names)
    tiles = parity_tiles(task, config.tiles)
    graphs = _checked_graphs(config, checkpoint, tiles)
    for kind in graphs:
        if kind.cost is not None:
            console.print(cost_table(kind.cost))
        console.print(parity_table(f"{config.name} {kind.kind}", kind.reports))
    source = f"{len(tiles)} of {config.tiles.name}" if config.tiles else f"{len(tiles)} generated"
    notes = provenance(config.checkpoint, checkpoint, arguments, source)
    target, plans = _place(config, graphs)
    draft = Draft(task, checkpoint.method, graphs, canary_tiles(task.tile_px), notes, target, metrics, plans)
    release = publish(config.repository, config.name, draft)
    for name in release.kinds:
        console.print(f"{entry_name(config.name, name)} now answers as {release.frozen(name)}", soft_wrap=True)
    console.print(
        f"release: {config.repository / release.frozen(release.kinds[0])} and {len(release.models) - 1} more models", soft_wrap=True
    )


def _checked_graphs(config: ExportConfig, checkpoint: Checkpoint, tiles: npt.NDArray[np.uint8]) -> tuple[KindGraphs, ...]:
    """The graphs; where they do not pass, a report of what was measured is left behind.

    Raises:
        ParityError: they do not pass; names the report.
    """
    calibration = None if config.calibration is None else read_tiles(config.calibration, checkpoint.task.tile_px)
    scored = None if config.tiles is None or config.truth is None else read_scored_tiles(config.tiles, config.truth, checkpoint.task)
    options = PrecisionOptions(config.precision, calibration, config.max_miou_loss, scored=scored)
    try:
        graphs = export_checkpoint(checkpoint, tiles, options)
    except ParityError as error:
        if not error.reports:
            raise
        page = write_parity_report(report_folder(config.report, config.name), config.name, str(error), error.reports, checkpoint.task)
        raise ParityError(f"{error}. Report: {page}", error.reports) from error
    if config.target == "gpu":
        for kind in graphs:
            check_tensorrt(kind.net)
    return graphs


def _place(config: ExportConfig, graphs: tuple[KindGraphs, ...]) -> tuple[Target | None, dict[Kind, Path]]:
    """What the release is to run on, and the engines of its networks where they are built beforehand.

    Raises:
        EngineError: they cannot be built here.
    """
    if config.target is None:
        return None, {}
    target = TARGETS[config.target]
    if config.engines is None or not isinstance(target, GpuTarget):
        return target, {}
    plans = {kind.kind: build_engine(kind.net, graph_inputs(kind.net), target.profile, config.engines).path for kind in graphs}
    return dataclasses.replace(target, has_engine=True), plans


def main(argv: Sequence[str]) -> int:
    """Export, or what an action says; returns the exit code."""
    actions = [argument for argument in argv if argument in ACTIONS]

    def call() -> int:
        if actions:
            rest = list(argv)
            rest.remove(actions[0])
            return ACTIONS[actions[0]](rest)  # of two actions, the second is an option that the first does not know
        export(tyro.cli(ExportConfig, prog=PROGRAM, args=list(argv)), argv, Console())
        return 0

    return run(PROGRAM, call, (ExportError, TrainingError, ServingError, ContractError))
