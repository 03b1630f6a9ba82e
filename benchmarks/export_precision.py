"""What fp16 and int8 cost and give beside fp32, on real tiles and on this machine: `python -m benchmarks.export_precision`.

Networks with random weights show speed and numeric drift, no quality: their labels decide by less than a trained network's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
import tyro
from PIL import Image
from rich.console import Console
from rich.table import Table

from clients.errors import ClientError
from clients.slide import open_slide
from export.errors import ExportError, ParityError
from export.half import to_half
from export.int8 import to_int8
from export.precision import PrecisionReport, accept_int8, measure_precision
from export.signature import network_signature
from export.to_onnx import to_onnx
from export.wrapper import CamNet, SegmentNet
from serving.command import run
from serving.contract import TILE, TissueTask
from serving.tasks import get_task
from training.classifier import Classifier, ClassifierConfig
from training.datasets.catalog import ALL, read_annotated
from training.errors import TrainingError
from training.segmenter import Segmenter, SegmenterConfig

from .errors import BenchmarkError, EvaluationError
from .slide_tiles import is_tissue, spread
from .truth_images import read_images

import timm  # isort: skip  # after training, which mends torchvision for it

PROGRAM = "python -m benchmarks.export_precision"
Pixels = npt.NDArray[np.uint8]
_FPN_WIDTH = 128


@dataclass(frozen=True)
class PrecisionConfig:
    """Measure fp16 and int8 against fp32: size, agreement, IoU, speed."""

    data: Path
    """Annotated images: tiles of every second one calibrate, tiles of the others are measured on."""
    graphs: tuple[Path, ...] = ()
    """Exported fp32 graphs (…_net/1/model.onnx) of the task."""
    encoders: tuple[str, ...] = ()
    """timm encoders; each becomes a classifier and an FPN segmenter with random weights."""
    slides: tuple[Path, ...] = ()
    """Slides to measure drift on besides, without truth."""
    task: str = "wsss4luad"
    data_format: str = "crops"
    tiles: int = 32
    """At most so many tiles of each kind: to calibrate on, to measure on, and of the slides."""
    rounds: int = 9
    """Of each speed measurement; 0 leaves it out."""
    max_miou_loss: float = 1.0
    """Points of mean IoU that int8 may lose."""
    output: Path | None = None
    """JSON file for the figures."""


@dataclass(frozen=True)
class MeasuredTiles:
    """Tiles of one side.

    Attributes:
        calibration, tiles: uint8 (n, tile_px, tile_px, 3).
        truths: uint8 (n, tile_px, tile_px), of `tiles`.
        of_slides: uint8 (n, tile_px, tile_px, 3), may be empty.
    """

    calibration: Pixels
    tiles: Pixels
    truths: Pixels
    of_slides: Pixels


@dataclass(frozen=True)
class Row:
    """One precision of one graph.

    Attributes:
        refusal: why it would not be shipped; None where it would.
    """

    network: str
    on: Literal["data", "slides"]
    report: PrecisionReport
    refusal: str | None


def measure(config: PrecisionConfig) -> Iterator[Row]:
    """The rows of one graph after another.

    Raises:
        EvaluationError: nothing to measure.
        ExportError: a graph that cannot be exported, quantized or be fp16.
        TrainingError, ClientError: data or a slide cannot be read.
    """
    task = get_task(config.task)
    if not config.graphs and not config.encoders:
        raise EvaluationError("expected graphs or encoders to measure, got neither: give --graphs or --encoders")
    cut: dict[int, MeasuredTiles] = {}
    for name, fp32 in _networks(config, task):
        tile_px = _tile_px(fp32)
        if tile_px not in cut:
            cut[tile_px] = _cut(config, task, tile_px)
        yield from _measure_network(config, name, fp32, cut[tile_px])


def _measure_network(config: PrecisionConfig, name: str, fp32: onnx.ModelProto, measured: MeasuredTiles) -> Iterator[Row]:
    half = to_half(fp32, measured.calibration)
    yield _row(config, name, "data", measure_precision("fp16", fp32, half, measured.tiles, measured.truths, config.rounds))
    int8 = to_int8(fp32, measured.calibration)
    report = measure_precision("int8", fp32, int8, measured.tiles, measured.truths, config.rounds)
    yield _row(config, name, "data", report)
    if len(measured.of_slides):
        yield _row(config, name, "slides", measure_precision("fp16", fp32, half, measured.of_slides, rounds=0))
        yield _row(config, name, "slides", measure_precision("int8", fp32, int8, measured.of_slides, rounds=0))


def _row(config: PrecisionConfig, name: str, on: Literal["data", "slides"], report: PrecisionReport) -> Row:
    try:
        report.require()
        if report.precision == "int8" and report.speeds:
            accept_int8(report, config.max_miou_loss)
    except ParityError as error:
        return Row(name, on, report, str(error))
    return Row(name, on, report, None)


def _networks(config: PrecisionConfig, task: TissueTask) -> Iterator[tuple[str, onnx.ModelProto]]:
    for path in config.graphs:
        yield path.parent.parent.name, onnx.load(path)
    for encoder in config.encoders:
        torch.manual_seed(0)
        features: Any = timm.create_model(encoder, features_only=True)
        stages = tuple(range(len(features.feature_info)))[-4:]
        segmenter = Segmenter(SegmenterConfig(encoder, stages, len(task.classes), _FPN_WIDTH, image_px=task.tile_px))
        segment = SegmentNet(segmenter, task.normalization, segmenter.cell_px)
        yield f"{encoder} segment", to_onnx(segment, network_signature("segment", task, segmenter.cell_px))
        classifier = Classifier(ClassifierConfig(encoder, stages[-1:], len(task.classes), task.tile_px, final_norm=True))
        cam = CamNet(classifier, task.normalization, classifier.cell_px)
        yield f"{encoder} cam", to_onnx(cam, network_signature("cam", task, classifier.cell_px))


def _tile_px(model: onnx.ModelProto) -> int:
    (tile,) = (value for value in model.graph.input if value.name == TILE)
    return int(tile.type.tensor_type.shape.dim[1].dim_value)


def _cut(config: PrecisionConfig, task: TissueTask, tile_px: int) -> MeasuredTiles:
    halves: tuple[list[tuple[Pixels, Pixels]], list[tuple[Pixels, Pixels]]] = ([], [])
    for index, image in enumerate(read_images(read_annotated(config.data, task, config.data_format, ALL), task)):
        for rows, columns in _windows(image.truth.shape, tile_px):
            halves[index % 2].append((image.rgb[rows, columns], image.truth[rows, columns]))
    if not all(halves):
        raise EvaluationError(f"{config.data}: expected at least two images of {tile_px}×{tile_px} px or more, got fewer")
    calibration, measured = (spread(half, config.tiles) for half in halves)
    slides = [tile for path in config.slides for tile in _slide_tiles(path, tile_px, task.mpp)]
    of_slides = np.stack(spread(slides, config.tiles)) if slides else np.empty((0, tile_px, tile_px, 3), np.uint8)
    tiles, truths = (np.stack(part) for part in zip(*measured, strict=True))
    return MeasuredTiles(np.stack([tile for tile, _ in calibration]), tiles, truths, of_slides)


def _slide_tiles(path: Path, tile_px: int, mpp: float) -> list[Pixels]:
    """Tiles with tissue, read at level 0 and reduced to the task's scale."""
    with open_slide(path) as slide:
        if slide.mpp is None:
            raise EvaluationError(f"{path}: expected a slide that says its scale (mpp), got one without: leave it out")
        side = round(tile_px * mpp / slide.mpp[0])
        read = (slide.read(0, columns.start, rows.start, side, side) for rows, columns in _windows((slide.height_l0, slide.width_l0), side))
        tissue = [rgb for rgb in read if is_tissue(rgb)]
    return [np.asarray(Image.fromarray(rgb).resize((tile_px, tile_px), Image.Resampling.BOX)) for rgb in tissue]


def _windows(shape: Sequence[int], side: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, shape[0] - side + 1, side):
        for left in range(0, shape[1] - side + 1, side):
            yield slice(top, top + side), slice(left, left + side)


def as_table(rows: Sequence[Row]) -> Table:
    """The figures, one line per row."""
    table = Table(title="beside fp32")
    for heading in ("network", "precision", "on", "size", "labels equal", "logits off by (of)", "mIoU lost, points", "speed", "shipped"):
        table.add_column(heading)
    for row in rows:
        report, figures = row.report, row.report.figures
        table.add_row(
            row.network,
            report.precision,
            f"{report.tiles} tiles of {row.on}",
            f"{report.bytes_candidate / 1e6:.2f} of {report.bytes_fp32 / 1e6:.2f} MB",
            f"{figures['label_agreement']:.3%}",
            f"{figures['logits_max_abs']:.3g} ({figures['logits_abs_max']:.3g})",
            f"{report.miou_loss:.2f} ({report.reference})",
            "; ".join(map(str, report.speeds)) or "—",
            "yes" if row.refusal is None else "no",
        )
    return table


def main(argv: Sequence[str]) -> int:
    """Measure; returns the exit code."""

    def call() -> int:
        config = tyro.cli(PrecisionConfig, prog=PROGRAM, args=list(argv))
        console, rows = Console(), []
        for row in measure(config):
            rows.append(row)
            console.print(f"{row.network} {row.report.precision} on {row.on}: {row.refusal or 'within its limits'}", soft_wrap=True)
        console.print(as_table(rows))
        if config.output is not None:
            figures = [{"network": row.network, "on": row.on, "refusal": row.refusal, **row.report.to_dict()} for row in rows]
            config.output.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return 0

    return run(PROGRAM, call, (BenchmarkError, ClientError, ExportError, TrainingError))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
