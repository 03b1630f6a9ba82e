"""Does an exported graph say what the torch network says, and does each row of a batch ignore its neighbors? Knows no repository."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from torch import nn

from serving.contract import BACKGROUND, CAM, LABELS, PROBABILITIES, SCORES, TILE, Kind, TissueTask
from serving.probabilities import labels_from_levels

from . import reference
from .errors import ParityError
from .runtime import LOGITS, Graph, expose_logits
from .signature import NET_PREFIX, is_combined

Tiles = npt.NDArray[np.uint8]

MIN_TILES = 8  # enough for the largest batch below and a neighbor
BATCH_SIZES = (1, 2, 3, 7)
_LOGITS_BEHIND = {"segment": (PROBABILITIES, "Softmax"), "cam": (SCORES, "Sigmoid")}

# The one table of thresholds (fp32). Agreements are shares of pixels.
LIMITS: dict[str, tuple[Literal["<=", ">="], float]] = {
    "logits_max_abs": ("<=", 1e-3),
    "probability_max_levels": ("<=", 1),  # of 255
    "cam_max_abs": ("<=", 1e-3),
    "scores_max_abs": ("<=", 1e-4),
    "label_agreement": (">=", 0.999),
    "label_rule_agreement": (">=", 1),  # LABELS against the rule applied to the graph's own PROBABILITIES
    "rows_logits_max_abs": ("<=", 1e-3),
    "rows_label_agreement": (">=", 0.999),
    "combined_max_abs": ("<=", 0),
    "combined_label_agreement": (">=", 1),
}


@dataclass(frozen=True)
class Figure:
    """One measured figure beside its limit of `LIMITS`."""

    name: str
    value: float

    @property
    def limit(self) -> str:
        relation, bound = LIMITS[self.name]
        return f"{relation} {bound:g}"

    @property
    def is_within(self) -> bool:
        """False for NaN too."""
        relation, bound = LIMITS[self.name]
        return self.value <= bound if relation == "<=" else self.value >= bound


@dataclass(frozen=True)
class ParityReport:
    """The figures of one graph; what `parity.json` of a release holds."""

    graph: str
    tiles: int
    figures: tuple[Figure, ...]

    @property
    def failures(self) -> tuple[Figure, ...]:
        return tuple(figure for figure in self.figures if not figure.is_within)

    def require(self) -> ParityReport:
        """The report itself.

        Raises:
            ParityError: a figure is outside its limit; the message lists all of those.
        """
        if self.failures:
            listed = "; ".join(f"{figure.name} = {figure.value:.6g}, expected {figure.limit}" for figure in self.failures)
            raise ParityError(
                f"{self.graph}: the exported graph does not keep parity on {self.tiles} tiles: {listed}. Nothing was published"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        figures = [{**dataclasses.asdict(figure), "limit": figure.limit, "is_within": figure.is_within} for figure in self.figures]
        return {"graph": self.graph, "tiles": self.tiles, "figures": figures}


def write_reports(reports: Sequence[ParityReport]) -> str:
    """`parity.json` of a frozen ensemble."""
    return json.dumps({"reports": [report.to_dict() for report in reports]}, indent=2) + "\n"


def check_network(kind: Kind, network: nn.Module, model: onnx.ModelProto, task: TissueTask, cell_px: int, tiles: Tiles) -> ParityReport:
    """Compare the graph with the torch network on real tiles, and its rows with each other.

    Args:
        tiles: uint8 (n, tile_px, tile_px, 3), at least `MIN_TILES`.

    Raises:
        ParityError: a figure is outside its limit.
    """
    if len(tiles) < MIN_TILES:
        raise ParityError(f"{kind} network: expected at least {MIN_TILES} tiles to compare on, got {len(tiles)}")
    network.eval()
    raw = reference.run_network(network, tiles, task.normalization)
    graph = Graph(expose_logits(model, *_LOGITS_BEHIND[kind]))
    answer = graph.run({TILE: tiles})
    compared = _segment_figures(raw, answer, cell_px, len(task.classes)) if kind == "segment" else _cam_figures(raw, answer, cell_px)
    figures = (*compared, *_row_figures(graph, answer, tiles))
    return ParityReport(f"{kind}_net", len(tiles), figures).require()


def check_labels(kind: Kind, model: onnx.ModelProto, answer: reference.Outputs, cell_px: int) -> ParityReport:
    """The combine graph against `serving.probabilities` and thesis eq. 4.9, exactly.

    The background is noise, so that every share of a cell occurs.

    Args:
        answer: what the network's graph gave, by output name.

    Raises:
        ParityError: anything differs.
    """
    shape = answer[LABELS].shape
    background = np.random.default_rng(0).integers(0, 2, shape, dtype=np.uint8)
    combine = reference.segment_labels if kind == "segment" else reference.cam_labels
    expected = combine(answer, background, cell_px)
    read = {NET_PREFIX + name: answer[name] for name in expected if is_combined(kind, name)}
    combined = Graph(model).run({**read, BACKGROUND: background})
    worst = float(np.max([_max_abs(combined[name], expected[name]) for name in expected if name != LABELS]))  # np.max keeps a NaN
    figures = (Figure("combined_max_abs", worst), Figure("combined_label_agreement", _agreement(combined[LABELS], expected[LABELS])))
    return ParityReport(f"{kind}_labels", len(background), figures).require()


def _segment_figures(raw: list[reference.Floats], answer: reference.Outputs, cell_px: int, num_classes: int) -> tuple[Figure, ...]:
    (logits,) = raw
    # From what the network answers, not from what it says of itself: that is what the graph was made by.
    expected = reference.segment_outputs(logits, cell_px, has_background=logits.shape[1] > num_classes)
    by_rule = np.stack([labels_from_levels(levels, cell_px) for levels in answer[PROBABILITIES]])
    return (
        Figure("logits_max_abs", _max_abs(answer[LOGITS], logits)),
        Figure("probability_max_levels", _max_abs(answer[PROBABILITIES], expected[PROBABILITIES])),
        Figure("label_agreement", _agreement(answer[LABELS], expected[LABELS])),
        Figure("label_rule_agreement", _agreement(answer[LABELS], by_rule)),
    )


def _cam_figures(raw: list[reference.Floats], answer: reference.Outputs, cell_px: int) -> tuple[Figure, ...]:
    class_maps, logits = raw
    expected = reference.cam_outputs(class_maps, logits, cell_px)
    # Division by a peak near 0 blows rounding up: below a peak of 1 the error counts in units of the activation.
    weight = np.minimum(reference.peaks(class_maps), 1)[:, :, None, None]
    return (
        Figure("logits_max_abs", _max_abs(answer[LOGITS], logits)),
        Figure("cam_max_abs", _max_abs(answer[CAM] * weight, expected[CAM] * weight)),
        Figure("scores_max_abs", _max_abs(answer[SCORES], expected[SCORES])),
        Figure("label_agreement", _agreement(answer[LABELS], expected[LABELS])),
    )


def _row_figures(graph: Graph, answer: reference.Outputs, tiles: Tiles) -> tuple[Figure, ...]:
    """Worst case over batches whose rows must answer as before: permuted, among noise, in other batch sizes."""
    logits_max_abs, agreement = 0.0, 1.0
    for batch, rows, sources in _regrouped(tiles):
        again = graph.run({TILE: batch})
        # np.maximum keeps a NaN, max() drops it
        logits_max_abs = float(np.maximum(logits_max_abs, _max_abs(again[LOGITS][rows], answer[LOGITS][sources])))
        agreement = min(agreement, _agreement(again[LABELS][rows], answer[LABELS][sources]))
    return Figure("rows_logits_max_abs", logits_max_abs), Figure("rows_label_agreement", agreement)


def _regrouped(tiles: Tiles) -> Iterator[tuple[Tiles, list[int], list[int]]]:
    """(batch, its rows to look at, the rows of `tiles` they are)."""
    generator = np.random.default_rng(0)
    order = generator.permutation(len(tiles)).tolist()
    yield tiles[order], list(range(len(tiles))), order
    for source in (0, len(tiles) - 1):
        among_noise = generator.integers(0, 256, tiles.shape, dtype=np.uint8)
        row = int(generator.integers(len(tiles)))
        among_noise[row] = tiles[source]
        yield among_noise, [row], [source]
    for size in BATCH_SIZES:
        sources = list(range(len(tiles) - size, len(tiles)))
        yield tiles[sources], list(range(size)), sources


def _max_abs(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())


def _agreement(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    return float((actual == expected).mean())
