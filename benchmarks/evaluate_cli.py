"""`histoserve evaluate`: a written mask, a checkpoint or a served model against truth."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from clients.errors import ClientError
from clients.pipeline import TileModel
from clients.served_model import ServedModel
from serving.command import run
from serving.contract import ContractError, Kind
from serving.embedded import EmbeddedTriton
from serving.entry import entry_of
from serving.errors import ServingError
from serving.tasks import get_task
from training.datasets.catalog import ALL, DataFormat
from training.errors import TrainingError
from training.metrics import Protocol, Scores

from .errors import BenchmarkError, EvaluationError
from .evaluate import evaluate_mask
from .evaluate_images import ModelEvaluation, TruthImage, evaluate_images
from .evaluation_report import write_report
from .gates import GateOptions
from .predict import OVERLAP
from .report import Rgb
from .truth_images import list_images, read_images

PROGRAM = "histoserve evaluate"


@dataclass(frozen=True)
class EvaluateConfig:
    """Compare with truth: a written mask (--mask --truth), a checkpoint (--checkpoint --data) or a served model (--served --data)."""

    mask: Path | None = None
    """The S.ome.zarr that `histoserve segment` wrote."""
    truth: Path | None = None
    """Single-channel image of labels 0…C, of the mask's size."""
    checkpoint: Path | None = None
    """File that `histoserve train` wrote; needs torch."""
    kind: Kind = "segment"
    """Which network of the checkpoint: the segmenter, or the classifier's CAMs."""
    served: str | None = None
    """A served model: NAME_segment, NAME_cam, or NAME for its segmenter."""
    server: str | None = None
    """Address of a Triton, host:port; without it the embedded one is started on --repository."""
    repository: Path = Path("model_repository")
    data: Path | None = None
    """Annotated images."""
    data_format: DataFormat = "crops"
    split: str = ALL
    """The data set's own split; all where it has none."""
    only: Path | None = None
    """split.json of `histoserve patches`: its held-out images alone."""
    image_mpp: float | None = None
    """Micrometers per pixel of the images; by default the scale that the task shipped with."""
    overlap: float = OVERLAP
    """Of neighboring tiles, share of a tile."""
    gate: GateOptions = field(default_factory=GateOptions)
    protocol: Protocol = "unmasked"
    """Which figures lead: masked drops the pixels that truth calls background, unmasked counts them."""
    report: Path | None = None
    """Write a page with pictures (.html) there."""
    json: bool = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        chosen = [name for name in ("mask", "checkpoint", "served") if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise ValueError(f"expected one of --mask, --checkpoint, --served, got {', '.join(chosen) or 'none'}")
        needed = "truth" if self.mask is not None else "data"
        if getattr(self, needed) is None:
            raise ValueError(f"--{chosen[0]}: expected --{needed} beside it")


def main(argv: Sequence[str]) -> int:
    """Evaluate; returns the exit code."""

    def call() -> int:
        config = tyro.cli(EvaluateConfig, prog=PROGRAM, args=list(argv))
        scores, names, more = _evaluate(config)
        if config.json:
            led = next(entry for entry in scores if entry.protocol == config.protocol)
            both = {entry.protocol: dataclasses.asdict(entry) for entry in scores}
            print(json.dumps({**dataclasses.asdict(led), "classes": names, "protocols": both, **more}, indent=2))
        else:
            Console().print(scores_table({"": scores}, names))
        return 0

    return run(PROGRAM, call, (BenchmarkError, ClientError, ServingError, TrainingError, ContractError))


def _evaluate(config: EvaluateConfig) -> tuple[tuple[Scores, ...], Sequence[str], dict[str, Any]]:
    """Scores under both protocols, class names, and what else there is for machines."""
    if config.mask is not None and config.truth is not None:
        written = evaluate_mask(config.mask, config.truth)
        return (written.unmasked, written.masked), written.class_names, {}
    more: dict[str, Any] = {}
    with _model(config) as model:
        evaluation = _evaluate_model(config, model, more)
    more["gate"] = dataclasses.asdict(config.gate)
    more["images"] = {image.name: image.confusion.tolist() for image in evaluation.images}
    if evaluation.classification is not None:
        more["classification"] = dataclasses.asdict(evaluation.classification)
    return (evaluation.scores("unmasked"), evaluation.scores("masked")), evaluation.task.class_names, more


def _evaluate_model(config: EvaluateConfig, model: TileModel, more: dict[str, Any]) -> ModelEvaluation:
    """Evaluate and, where asked for, write the report; adds to `more` what only a checkpoint can tell."""
    if config.data is None:
        raise EvaluationError("--data: expected a folder of annotated images, got none")
    task = model.contract.task
    image_mpp = config.image_mpp or get_task(task.name).mpp
    annotated = list_images(config.data, task, config.data_format, config.split, config.only)

    def told(name: str) -> None:
        print(f"{name} done", file=sys.stderr, flush=True)

    evaluation = evaluate_images(read_images(annotated, task), model, image_mpp, config.overlap, told, config.gate)
    figures = None
    if config.checkpoint is not None and config.kind == "cam":
        figures, more["features"] = _features(config.checkpoint, read_images(annotated, task), image_mpp)
    if config.report is not None:
        cams = _cam_model(config, model)
        write_report(config.report, evaluation, read_images(annotated, task), model, image_mpp, config.data.name, figures, cams)
    return evaluation


def _cam_model(config: EvaluateConfig, model: TileModel) -> TileModel | None:
    """What gives the report's heat maps: the model itself, or the classifier in the same checkpoint."""
    if model.contract.kind == "cam" or config.checkpoint is None:
        return model if model.contract.kind == "cam" else None
    from training.checkpoint import load

    from .torch_model import TorchModel

    loaded = load(config.checkpoint)
    return TorchModel(loaded, "cam") if loaded.cam_network is not None else None


def _features(checkpoint: Path, images: Iterator[TruthImage], image_mpp: float) -> tuple[dict[str, Rgb], dict[str, dict[str, float]]]:
    """Figures 5.1–5.4, and the mean similarities behind them by class."""
    # torch only where a checkpoint is asked for: a served model is evaluated without it
    from training.checkpoint import load

    from .feature_plots import draw_statistics
    from .feature_statistics import collect_statistics

    loaded = load(checkpoint)
    statistics = collect_statistics(loaded, images, image_mpp)
    means = zip(statistics.class_names, statistics.intra_mean.tolist(), statistics.inter_mean.tolist(), strict=True)
    return draw_statistics(statistics, loaded.task), {name: {"intra": intra, "inter": inter} for name, intra, inter in means}


@contextmanager
def _model(config: EvaluateConfig) -> Iterator[TileModel]:
    if config.checkpoint is not None:
        from training.checkpoint import load

        from .torch_model import TorchModel

        yield TorchModel(load(config.checkpoint), config.kind)
        return
    with ExitStack() as stack:
        served = entry_of(str(config.served))
        address = config.server or stack.enter_context(EmbeddedTriton(config.repository, [served])).address
        yield stack.enter_context(ServedModel(address, served))


def scores_table(evaluations: Mapping[str, Sequence[Scores]], class_names: Sequence[str]) -> Table:
    """IoU per class, one row per name and protocol; what does not fit into 80 columns is in the JSON."""
    table = Table(title="IoU per class (unmasked: background counts; masked: truth's background dropped)")
    for column in ("", "protocol", *class_names, "mIoU", "fwIoU"):
        table.add_column(column, justify="left" if column in ("", "protocol") else "right")
    for name, entries in evaluations.items():
        for scores in entries:
            values = (*scores.iou, scores.miou, scores.fwiou)
            table.add_row(name, scores.protocol, *(f"{value:.3f}" for value in values))
    return table
