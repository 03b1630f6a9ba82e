"""A study's rows as Markdown: IoU per class, means, and the paired interval of PSCL minus the classification baseline. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from training.bootstrap import Difference, paired_difference
from training.metrics import Protocol, score

from .study_plan import PAIRS

Confusion = npt.NDArray[np.int64]


def render_table(study: dict[str, Any], main_classes: Sequence[str]) -> str:
    """Markdown: every row under both protocols, the pseudo-masks, and the differences.

    Args:
        main_classes: those whose mean IoU leads; a class that too few images hold is shown beside them.
    """
    classes = study["classes"]
    mean = f"mIoU of {' and '.join(main_classes)}" if len(main_classes) < len(classes) else "mIoU"
    lines = [f"| | protocol | {mean} | {' | '.join(classes)} | fwIoU | accuracy |", "|---|---|---|" + "---|" * (len(classes) + 2)]
    rows = {name: np.array(values, dtype=np.int64) for name, values in study["rows"].items()}
    for name, confusions in rows.items():
        for protocol in ("masked", "unmasked"):
            lines.append(_row(name, protocol, confusions.sum(axis=(0, 1)), classes, main_classes))
    for variant, values in study["pseudo_masks"].items():
        lines.append(_row(f"pseudo-masks of {variant} (training patches)", "masked", np.array(values), classes, main_classes))
    lines += ["", "| training | seconds a run | parameters of the segmenter |", "|---|---|---|"]
    lines += [f"| {variant} | {cost['seconds']:.0f} | {cost['parameters'] / 1e6:.2f} M |" for variant, cost in study["training"].items()]
    lines += ["", f"| difference of {mean}, masked, in points | value | 95 % interval |", "|---|---|---|"]
    metric = main_mean(classes, main_classes)
    for second, first in dict.fromkeys(PAIRS):
        if second in rows and first in rows:
            difference = paired_difference(rows[first], rows[second], metric)
            lines.append(f"| {second} − {first} | {100 * difference.value:+.1f} | {_interval(difference)} |")
    return "\n".join(lines) + "\n"


def main_mean(classes: Sequence[str], main_classes: Sequence[str]) -> Callable[[Confusion], float]:
    """Masked mean IoU of the classes that lead, as a function of a confusion matrix."""
    chosen = [classes.index(name) for name in main_classes]

    def metric(confusion: Confusion) -> float:
        iou = np.array(score(confusion, "masked").iou)[chosen]
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    return metric


def _row(name: str, protocol: Protocol, confusion: Confusion, classes: Sequence[str], main_classes: Sequence[str]) -> str:
    scores = score(confusion, protocol)
    iou = dict(zip(classes, scores.iou, strict=True))
    values = (float(np.nanmean([iou[main] for main in main_classes])), *scores.iou, scores.fwiou, scores.accuracy)
    return f"| {name} | {protocol} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def _interval(difference: Difference) -> str:
    return f"{100 * difference.low:+.1f} … {100 * difference.high:+.1f}"
