"""What points with different numbers of server instances say together: how a tile's time shrinks with them. Knows no server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import BenchError
from .slide_fit import LineFit, fit_line

POINT = "instances "  # a point's name starts with it


def scaling_of(points: Mapping[str, Mapping[str, Any]]) -> LineFit | None:
    """Seconds per 1,000 tiles on the way = fixed + each / instances; None with fewer than three counts that were measured."""
    measured = measured_counts(points)
    try:
        return fit_line([1 / count for count in measured], [1e3 / float(point["sent_tiles_per_s"]) for point in measured.values()])
    except BenchError:
        return None


def instance_ratios(points: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Two instances over one, tiles/s and CPU (both sides) per tile; the share of a tile's time that instances do not shorten, and how far the fit is off."""
    measured, line = measured_counts(points), scaling_of(points)
    found: dict[str, float | None] = {"instances_2_over_1": None, "instances_cpu_2_over_1": None}
    if {1, 2} <= set(measured):
        found["instances_2_over_1"] = round(measured[2]["sent_tiles_per_s"] / measured[1]["sent_tiles_per_s"], 4)
        found["instances_cpu_2_over_1"] = round(_cpu_ms(measured[2]) / _cpu_ms(measured[1]), 4)
    found["instances_fixed_share"] = None if line is None else round(line.fixed / line.at(1), 4)
    found["instances_residual"] = None if line is None else round(line.residual, 4)
    return found


def scaling_line(points: Mapping[str, Mapping[str, Any]]) -> str:
    """The fit in words."""
    line = scaling_of(points)
    if line is None:
        return "instances of the network: no line, fewer than three counts"
    share = (
        f"{line.fixed / line.at(1):.0%} of one instance's time is not shortened by more of them"
        if line.each > 0
        else "more of them shorten nothing"
    )
    return f"seconds per 1,000 tiles = {line.fixed:.3f} + {line.each:.3f} / instances of the network; farthest point {line.residual:.1%}; {share}"


def measured_counts(points: Mapping[str, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Count → its point."""
    return {point["instances"]: point for name, point in points.items() if name.startswith(POINT) and "skipped" not in point}


def _cpu_ms(point: Mapping[str, Any]) -> float:
    return sum(float(value) for value in point["cpu_ms_per_tile"].values())
