"""What a precision costs and gives beside fp32: agreement, IoU, size and speed, and whether it may be shipped. Knows no conversion and no repository."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, TILE
from training.metrics import confusion_matrix, score

from .errors import ParityError, TilesError
from .figures import Figure
from .parity import LIMITS, Precision, figure_of
from .runtime import LOGITS, Graph, expose_logits
from .speed import Speed, measure_speeds

Tiles = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]

_BATCH = 8  # tiles at a time


@dataclass(frozen=True)
class ClassIou:
    """IoU (0…1) of one class of both graphs against the same reference.

    Attributes:
        label: 1…C.
    """

    label: int
    fp32: float
    candidate: float

    @property
    def loss_points(self) -> float:
        """Points of 100; negative where the candidate is better."""
        return 100 * (self.fp32 - self.candidate)


@dataclass(frozen=True)
class PrecisionReport:
    """The candidate beside the fp32 graph, on the same tiles.

    Attributes:
        bytes_fp32, bytes_candidate: of the files.
        figures: by name: label_agreement (share of pixels), logits_max_abs (difference), logits_abs_max (of the fp32 graph, for scale), and
            probability_max_levels (of 255); or cam_max_abs, scores_max_abs and gates_changed (logits of a class that changed their sign: a CAM
            network's gate is hard, a logit of 0.001 decides over a tile).
        reference: what the IoU is against: truth (pixels without truth left out), or the labels of the fp32 graph itself.
        iou: of the classes that occur in the reference.
        speeds: empty where it was not measured.
    """

    graph: str
    precision: Precision
    tiles: int
    bytes_fp32: int
    bytes_candidate: int
    figures: Mapping[str, float]
    reference: Literal["truth", "fp32 labels"]
    iou: tuple[ClassIou, ...]
    speeds: tuple[Speed, ...]

    @property
    def miou_loss(self) -> float:
        """Points of mean IoU that the candidate loses; NaN where the reference holds no class."""
        return float(np.mean([entry.loss_points for entry in self.iou])) if self.iou else math.nan

    def require(self) -> PrecisionReport:
        """The report itself.

        Raises:
            ParityError: a figure is outside its limit of `parity.LIMITS`; the message lists all of those.
        """
        broken = [f"{figure.name} = {figure.value:.6g}, expected {figure.limit}" for figure in self._judged() if not figure.is_within]
        if broken:
            crossed = int(self.figures.get("gates_changed", 0))
            gates = f". {crossed} logits of a class changed their sign, and with it the labels of a whole tile" if crossed else ""
            raise ParityError(f"{self.graph}: {self.precision} does not agree with fp32 on {self.tiles} tiles: {'; '.join(broken)}{gates}")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the limits beside the figures; None for what is no finite number."""
        loss = None if math.isnan(self.miou_loss) else self.miou_loss
        limits = {figure.name: figure.limit for figure in self._judged() if figure.bound is not None}
        figures = {name: value if math.isfinite(value) else None for name, value in self.figures.items()}
        return {**dataclasses.asdict(self), "figures": figures, "miou_loss_points": loss, "limits": limits}

    def _judged(self) -> list[Figure]:
        """The figures that the gate judges too, beside its limits: here both graphs run in ONNX Runtime, and fp32 is the reference."""
        return [figure_of(name, value, self.precision) for name, value in self.figures.items() if name in LIMITS]


def measure_precision(
    precision: Precision,
    fp32: onnx.ModelProto,
    candidate: onnx.ModelProto,
    tiles: Tiles,
    truths: Labels | None = None,
    rounds: int = 9,
) -> PrecisionReport:
    """Compare the candidate with the fp32 graph it was made of.

    Args:
        tiles: real tiles, uint8 (n, tile_px, tile_px, 3); not those int8 was calibrated on.
        truths: labels, uint8 (n, tile_px, tile_px): 1…C, 0 where nothing is to be scored. None compares with the fp32 graph's labels: that measures
            drift, not quality.
        rounds: of the speed measurement; 0 leaves it out.

    Raises:
        TilesError: no tiles, or truths of another shape.
    """
    if not len(tiles) or (truths is not None and truths.shape != tiles.shape[:3]):
        shape = None if truths is None else truths.shape
        raise TilesError(f"{precision}: expected tiles and, per tile, a truth of its size, got {tiles.shape} and {shape}")
    before, after = (_answers(model, tiles) for model in (fp32, candidate))
    return PrecisionReport(
        graph="segment_net" if PROBABILITIES in before else "cam_net",
        precision=precision,
        tiles=len(tiles),
        bytes_fp32=fp32.ByteSize(),
        bytes_candidate=candidate.ByteSize(),
        figures=_figures(before, after),
        reference="fp32 labels" if truths is None else "truth",
        iou=_class_iou(before, after, truths),
        speeds=measure_speeds(fp32, candidate, tiles[:_BATCH], rounds) if rounds else (),
    )


def accept_int8(report: PrecisionReport, max_miou_loss: float) -> None:
    """Nothing, where int8 is worth shipping.

    Args:
        max_miou_loss: points of mean IoU.

    Raises:
        ParityError: int8 is not faster in at least three of four rounds, with every measured number of threads, or loses more; with the figures.
    """
    slow = [str(speed) for speed in report.speeds if not speed.low > 1]
    reasons = [f"expected it to be faster than fp32, got {', '.join(slow) or 'no measurement'}"] if slow or not report.speeds else []
    if not report.miou_loss <= max_miou_loss:
        reasons.append(
            f"expected a loss of at most {max_miou_loss:g} points of mean IoU against {report.reference}, got {report.miou_loss:.3g}"
        )
    if reasons:
        raise ParityError(f"{report.graph}: int8 is refused: {'; '.join(reasons)}. Export it in fp32 or fp16")


def _answers(model: onnx.ModelProto, tiles: Tiles) -> dict[str, npt.NDArray[Any]]:
    """The outputs and the logits, whole."""
    is_segment = any(output.name == PROBABILITIES for output in model.graph.output)
    graph = Graph(expose_logits(model, PROBABILITIES, "Softmax") if is_segment else expose_logits(model, SCORES, "Sigmoid"))
    parts = [graph.run({TILE: tiles[start : start + _BATCH]}) for start in range(0, len(tiles), _BATCH)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _figures(before: Mapping[str, npt.NDArray[Any]], after: Mapping[str, npt.NDArray[Any]]) -> dict[str, float]:
    named = {"probability_max_levels": PROBABILITIES, "cam_max_abs": CAM, "scores_max_abs": SCORES, "logits_max_abs": LOGITS}
    figures = {"label_agreement": float((before[LABELS] == after[LABELS]).mean()), "logits_abs_max": float(np.abs(before[LOGITS]).max())}
    for figure, output in named.items():
        if output in before:
            figures[figure] = float(np.abs(before[output].astype(np.float64) - after[output].astype(np.float64)).max())
    if SCORES in before:
        figures["gates_changed"] = float(((before[LOGITS] > 0) != (after[LOGITS] > 0)).sum())
    return figures


def _class_iou(
    before: Mapping[str, npt.NDArray[Any]], after: Mapping[str, npt.NDArray[Any]], truths: Labels | None
) -> tuple[ClassIou, ...]:
    """Per class of the reference. Against its own labels the fp32 graph has 1, and a pixel it calls background counts."""
    reference = before[LABELS] if truths is None else truths
    classes = before[PROBABILITIES].shape[1] - 1 if PROBABILITIES in before else before[CAM].shape[1]
    both = [confusion_matrix(reference, answer[LABELS], classes) for answer in (before, after)]
    fp32, candidate = (score(matrix, "unmasked" if truths is None else "masked").iou for matrix in both)
    present = both[0].sum(axis=1)[1:] > 0
    return tuple(ClassIou(label + 1, fp32[label], candidate[label]) for label in range(classes) if present[label])
