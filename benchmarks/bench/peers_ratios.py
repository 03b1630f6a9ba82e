"""What peers' runs say: medians and quartiles, agreement of masks, and the ratios that are the result. Knows no process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Runs = Mapping[str, Sequence[Mapping[str, Any]]]  # peer → its points, one a round; failed ones have no figures
_FIGURES = ("work_s", "wall_s", "cpu_s_per_1000_tiles", "peak_mb", "tiles_per_s", "agreement")


@dataclass(frozen=True)
class Ratio:
    """One of the issue's: `figure` of `of` / the same of `to`, round by round.

    Attributes:
        goal: at least this, or with `at_most` at most.
    """

    of: str
    to: str
    figure: str = "tiles_per_s"
    goal: float | None = None
    at_most: bool = False


RATIOS: dict[str, Ratio] = {
    "served_over_engine": Ratio("served", "memory", goal=0.95),
    "over_tiatoolbox": Ratio("served", "tiatoolbox", goal=1.5),
    "over_ort_loop": Ratio("served", "openslide-onnxruntime", goal=1.15),
    "over_torch_loop": Ratio("served", "openslide-torch"),
    "over_fastapi": Ratio("served", "fastapi"),
    "int8_over_tiatoolbox": Ratio("served-int8", "tiatoolbox", goal=1.6),
    "int8_over_served": Ratio("served-int8", "served"),
    # On a machine that others use too, CPU-seconds say more than seconds: what a peer needs over what we need.
    "cpu_of_tiatoolbox": Ratio("tiatoolbox", "served", "cpu_s_per_1000_tiles"),
    "cpu_of_ort_loop": Ratio("openslide-onnxruntime", "served", "cpu_s_per_1000_tiles"),
    "cpu_of_engine": Ratio("memory", "served", "cpu_s_per_1000_tiles"),
    "null_cpu_of_tiatoolbox": Ratio("tiatoolbox-null", "served-null", "cpu_s_per_1000_tiles"),
    "null_cpu_of_openslide": Ratio("openslide-null", "served-null", "cpu_s_per_1000_tiles"),
    "null_over_tiatoolbox": Ratio("served-null", "tiatoolbox-null", goal=20.0),
    "null_over_openslide": Ratio("served-null", "openslide-null", goal=2.0),
    "memory_over_tiatoolbox": Ratio("served-null", "tiatoolbox-null", "peak_mb", 0.2, True),
    "network_memory_over_tiatoolbox": Ratio("served", "tiatoolbox", "peak_mb"),
}


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third (linear between the values)."""
    first, median, third = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75])
    return float(first), float(median), float(third)


def summarize(points: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Figure → [first quartile, median, third] over the rounds that ended well; empty where none did."""
    found: dict[str, list[float]] = {}
    for figure in _FIGURES:
        values = [float(point[figure]) for point in points if point.get(figure) is not None]
        if values:
            found[figure] = [round(value, 4) for value in quartiles(values)]
    return found


def ratios_of(runs: Runs) -> dict[str, float | None]:
    """Every ratio of `RATIOS`: the median over the rounds in which both ended well; None where there is no such round."""
    return {name: None if (found := spread_of(ratio, runs)) is None else round(found[1], 4) for name, ratio in RATIOS.items()}


def spread_of(ratio: Ratio, runs: Runs) -> tuple[float, float, float] | None:
    """Its quartiles over the rounds."""
    rounds = [{point["round"]: point.get(ratio.figure) for point in runs.get(peer, ())} for peer in (ratio.of, ratio.to)]
    values = [value / rounds[1][number] for number, value in rounds[0].items() if value is not None and rounds[1].get(number)]
    return quartiles(values) if values else None


def verdict(ratio: Ratio, value: float | None) -> str:
    """Whether the goal is met: "met", "missed", "not measured", or "" where there is none."""
    if value is None:
        return "not measured"
    if ratio.goal is None:
        return ""
    return "met" if (value <= ratio.goal if ratio.at_most else value >= ratio.goal) else "missed"


def agreement(reference: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> tuple[float | None, float]:
    """Share of equal labels where both masks have a class, and that place's share of the reference.

    Label 0 is left out: it is a rule for glass that histoserve applies and a bare loop does not. A mask that is larger than the slide (whole tiles)
    is compared where the reference is.

    Returns:
        None and 0.0 where no pixel has a class in both.

    Raises:
        ValueError: the other mask is smaller than the reference.
    """
    height, width = reference.shape
    if other.shape[0] < height or other.shape[1] < width:
        raise ValueError(f"mask: expected at least {reference.shape} pixels, got {other.shape}")
    part = other[:height, :width]
    both = (reference > 0) & (part > 0)
    count = int(both.sum())
    return (float((reference == part)[both].mean()), count / both.size) if count else (None, 0.0)


def by_peer(points: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """A result file's points, sorted by peer."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        found.setdefault(point["peer"], []).append(point)
    return found
