"""Does an exported graph say what the torch network says, and does each row of a batch ignore its neighbors? Knows no repository."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from serving.contract import BACKGROUND, CAM, LABELS, PROBABILITIES, SCORES, TILE, Kind, TissueTask
from serving.probabilities import labels_from_levels

from . import reference
from .engines import ONNX_RUNTIME, Engine
from .errors import ParityError
from .expected import Expected, expose, from_torch
from .figures import Figure, Labels, ParityReport, Relation, Tiles, Worst
from .rows import max_abs, measure_rows
from .runtime import LOGITS
from .signature import NET_PREFIX, is_combined

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8"}

MIN_TILES = 8


@dataclass(frozen=True)
class Limit:
    """A bound per precision; None: told, not judged."""

    relation: Relation
    fp32: float | None
    fp16: float | None
    int8: float | None

    def bound(self, precision: Precision) -> float | None:
        bound: float | None = getattr(self, precision)
        return bound


# The one table of limits. Agreements are shares of pixels. Half precision and int8 round every layer, by as much as a logit's own scale: there the
# labels judge, and the mean IoU on a data set (`precision`).
LIMITS: dict[str, Limit] = {
    "logits_max_abs": Limit("<=", 1e-3, None, None),
    "probability_max_levels": Limit("<=", 1, 8, None),  # of 255
    "cam_max_abs": Limit("<=", 1e-3, 0.05, None),
    "scores_max_abs": Limit("<=", 1e-4, 0.01, None),
    "label_agreement": Limit(">=", 0.999, 0.995, 0.97),
    "label_rule_agreement": Limit(">=", 1, 1, 1),  # LABELS against the rule applied to the graph's own PROBABILITIES
    "rows_logits_max_abs": Limit("<=", 1e-3, 0.05, 0.05),
    "rows_label_agreement": Limit(">=", 0.999, 0.998, 0.998),
    "equal_rows_max_abs": Limit("<=", 1e-3, 0.05, 0.05),
    "combined_max_abs": Limit("<=", 0, 0, 0),
    "combined_agreement": Limit(">=", 1, 1, 1),
    "canary_max_levels": Limit("<=", 1, 8, None),  # fp32 as the server judges it: `serving.canary`
    "canary_max_abs": Limit("<=", 1e-3, 0.05, None),
    "canary_agreement": Limit(">=", 0.999, 0.995, 0.97),
}


def figure_of(name: str, value: float, precision: Precision = "fp32") -> Figure:
    """A figure beside its limit of `LIMITS`."""
    limit = LIMITS[name]
    return Figure(name, value, limit.relation, limit.bound(precision))


def parse_precision(raw: str) -> Precision:
    """Parse the precision that a release's notes name.

    Raises:
        ParityError: it is none that this histoserve knows.
    """
    if raw not in PRECISIONS:
        raise ParityError(f"precision: expected {', '.join(PRECISIONS)}, got {raw!r}: use the histoserve that exported the release")
    return PRECISIONS[raw]


def check_network(kind: Kind, network: nn.Module, model: onnx.ModelProto, task: TissueTask, cell_px: int, tiles: Tiles) -> ParityReport:
    """Compare the fp32 graph in ONNX Runtime with the torch network on real tiles, and its rows with each other.

    Raises:
        ParityError: a figure is outside its limit, or there are fewer than `MIN_TILES` tiles.
    """
    require_tiles(kind, tiles)
    return measure_network(kind, model, from_torch(kind, network, task, cell_px, tiles), tiles, cell_px).require()


def require_tiles(kind: Kind, tiles: Tiles) -> None:
    """Do nothing where there are enough tiles.

    Raises:
        ParityError: there are fewer than `MIN_TILES`.
    """
    if len(tiles) < MIN_TILES:
        raise ParityError(f"{kind} network: expected at least {MIN_TILES} tiles to compare on, got {len(tiles)}")


def measure_network(
    kind: Kind,
    model: onnx.ModelProto,
    expected: Expected,
    tiles: Tiles,
    cell_px: int,
    engine: Engine = ONNX_RUNTIME,
    precision: Precision = "fp32",
) -> ParityReport:
    """The figures of a network's graph in one engine.

    Args:
        tiles: uint8 (n, tile_px, tile_px, 3), what `expected` is of.

    Raises:
        GraphError: the engine cannot load the graph, or it does not take every batch.
    """
    name = f"{kind}_net"
    not_run = engine.absent(model)
    if not_run is not None:
        return ParityReport(name, len(tiles), (), engine.name, expected.by, not_run)
    graph = engine.load(expose(kind, model))
    answer = graph.run({TILE: tiles})
    compared = _segment_values(expected, answer, cell_px) if kind == "segment" else _cam_values(expected, answer)
    rows = measure_rows(graph, answer, tiles)
    values = {
        "logits_max_abs": max_abs(answer[LOGITS], expected.outputs[LOGITS]),
        "label_agreement": agreement(answer[LABELS], expected.outputs[LABELS]),
        **compared,
        "rows_logits_max_abs": rows.logits_max_abs,
        "rows_label_agreement": rows.label_agreement,
        "equal_rows_max_abs": rows.equal_max_abs,
    }
    worst = worst_tile(tiles, expected.outputs[LABELS], answer[LABELS], np.abs(answer[LOGITS] - expected.outputs[LOGITS]))
    source, got, where = rows.worst
    if rows.label_agreement < agreement(worst.got, worst.expected):
        worst = Worst(tiles[source], answer[LABELS][source], got, f"tile {source} as {where}")
    figures = tuple(figure_of(figure, value, precision) for figure, value in values.items())
    return ParityReport(name, len(tiles), figures, engine.name, expected.by, worst=worst)


def check_labels(kind: Kind, model: onnx.ModelProto, answer: reference.Outputs, tiles: Tiles, cell_px: int) -> ParityReport:
    """`measure_labels` in ONNX Runtime.

    Raises:
        ParityError: anything differs.
    """
    return measure_labels(kind, model, answer, tiles, cell_px).require()


def measure_labels(
    kind: Kind, model: onnx.ModelProto, answer: reference.Outputs, tiles: Tiles, cell_px: int, engine: Engine = ONNX_RUNTIME
) -> ParityReport:
    """The combine graph against `serving.probabilities` and thesis eq. 4.9: exactly, in every engine.

    The background is noise, so that every share of a cell occurs.

    Args:
        answer: what the network's graph gave for the tiles, by output name.
    """
    name = f"{kind}_labels"
    not_run = engine.absent(model)
    if not_run is not None:
        return ParityReport(name, len(tiles), (), engine.name, "numpy", not_run)
    background = np.random.default_rng(0).integers(0, 2, answer[LABELS].shape, dtype=np.uint8)
    combine = reference.segment_labels if kind == "segment" else reference.cam_labels
    expected = combine(answer, background, cell_px)
    read = {NET_PREFIX + tensor: answer[tensor] for tensor in expected if is_combined(kind, tensor)}
    combined = engine.load(model).run({**read, BACKGROUND: background})
    largest = float(np.max([max_abs(combined[tensor], expected[tensor]) for tensor in expected if tensor != LABELS]))  # np.max keeps a NaN
    agrees = agreement(combined[LABELS], expected[LABELS])
    figures = (figure_of("combined_max_abs", largest), figure_of("combined_agreement", agrees))
    worst = worst_tile(tiles, expected[LABELS], combined[LABELS])
    return ParityReport(name, len(background), figures, engine.name, "numpy", worst=worst)


def worst_tile(tiles: Tiles, expected: Labels, got: Labels, errors: npt.NDArray[Any] | None = None) -> Worst:
    """The tile whose labels agree least; among equals the one with the largest error."""
    shares = (expected == got).reshape(len(tiles), -1).mean(axis=1)
    largest = np.zeros(len(tiles)) if errors is None else np.nan_to_num(errors.reshape(len(tiles), -1).max(axis=1), nan=np.inf)
    index = int(np.lexsort((-largest, shares))[0])
    return Worst(tiles[index], expected[index], got[index], f"tile {index}")


def agreement(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The share of equal elements."""
    return float((actual == expected).mean())


def _segment_values(expected: Expected, answer: reference.Outputs, cell_px: int) -> dict[str, float]:
    by_rule = np.stack([labels_from_levels(levels, cell_px) for levels in answer[PROBABILITIES]])
    return {
        "probability_max_levels": max_abs(answer[PROBABILITIES], expected.outputs[PROBABILITIES]),
        "label_rule_agreement": agreement(answer[LABELS], by_rule),
    }


def _cam_values(expected: Expected, answer: reference.Outputs) -> dict[str, float]:
    # Division by a peak near 0 blows rounding up: below a peak of 1 the error counts in units of the activation.
    peaks = np.ones(answer[SCORES].shape) if expected.peaks is None else expected.peaks
    weight = np.minimum(peaks, 1)[:, :, None, None]
    return {
        "cam_max_abs": max_abs(answer[CAM] * weight, expected.outputs[CAM] * weight),
        "scores_max_abs": max_abs(answer[SCORES], expected.outputs[SCORES]),
    }
