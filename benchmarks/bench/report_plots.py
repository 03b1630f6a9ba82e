"""The plots of a report as SVG: the same figures give the same bytes. Knows curves and bars, no result file."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

_SIZE_INCHES = (7.2, 4.0)
_MARK_STYLES = ("--", ":")
_LONG_NAME = 12
# The salt names the clip paths, which are random otherwise; text stays text.
_SETTINGS = {
    "svg.hashsalt": "histoserve",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


@dataclass(frozen=True)
class Line:
    """Points of one line; `labels` stand beside them."""

    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()


def plot_lines(
    lines: Mapping[str, Line], x_name: str, y_name: str, *, marks: Mapping[str, float] | None = None, log_y: bool = False
) -> str:
    """Lines by name.

    Args:
        marks: vertical lines by name, at their x.
    """
    with _figure() as (figure, axes):
        for name, line in lines.items():
            axes.plot(line.x, line.y, marker="o", markersize=4, label=name)
            for x, y, label in zip(line.x, line.y, line.labels, strict=False):
                axes.annotate(label, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=7)
        for (name, x), style in zip((marks or {}).items(), itertools.cycle(_MARK_STYLES), strict=False):
            axes.axvline(x, color="#555555", linestyle=style, linewidth=1, label=name)
        if log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(xlabel=x_name, ylabel=y_name, xlim=(0, None))
        axes.legend(fontsize=8)
        return _svg(figure)


def plot_stack(bars: Mapping[str, Mapping[str, float]], y_name: str) -> str:
    """One bar for each name, of the same parts in the same order."""
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    with _figure() as (figure, axes):
        bottoms = np.zeros(len(bars))
        places = np.arange(len(bars))
        colors = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]
        for part, color in zip(parts, itertools.cycle(colors), strict=False):
            heights = np.array([bar.get(part, 0.0) for bar in bars.values()])
            axes.bar(places, heights, bottom=bottoms, label=part, width=0.6, color=color)
            bottoms += heights
        is_long = max(map(len, bars), default=0) > _LONG_NAME
        axes.set_xticks(places, list(bars), rotation=20 if is_long else 0, ha="right" if is_long else "center")
        axes.set_ylabel(y_name)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return _svg(figure)


def plot_roofline(peak_gflops: float, copy_gb_s: float, intensity: float, reached: Mapping[str, float]) -> str:
    """What can be computed over what must be moved, both axes logarithmic.

    Args:
        intensity: of the model: floating-point operations per byte.
        reached: name → 1e9 operations per second.
    """
    ridge = peak_gflops / copy_gb_s
    ends = (min(ridge, intensity) / 10, max(ridge, intensity) * 10)
    with _figure() as (figure, axes):
        axes.plot(
            [ends[0], ridge, ends[1]], [ends[0] * copy_gb_s, peak_gflops, peak_gflops], color="#444444", label="roof: memory, then GEMM"
        )
        for name, gflops in reached.items():
            axes.plot([intensity], [gflops], marker="o", linestyle="none", label=name)
        axes.axvline(intensity, color="#bbbbbb", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="floating-point operations per byte moved at least", ylabel="1e9 operations per second")
        axes.legend(fontsize=8, loc="lower right")
        return _svg(figure)


@contextmanager
def _figure() -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(_SETTINGS):  # type: ignore[arg-type]  # its names are a closed list of literals
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        yield figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
