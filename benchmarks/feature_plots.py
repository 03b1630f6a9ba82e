"""Figures 5.1–5.4 of the thesis as pictures for the report. Knows no model."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from serving.contract import TissueTask

from .feature_statistics import BINS, FeatureStatistics
from .report import Rgb

mpl.use("Agg")  # no display


def draw_statistics(statistics: FeatureStatistics, task: TissueTask) -> dict[str, Rgb]:
    """Pictures by caption: CAM activation on the class's own cells, and cosine similarity within and between classes."""
    return {
        "CAM activation on the class's own cells (figures 5.1, 5.2)": _plot(statistics, task, ("activation",), (0, 1)),
        "cosine similarity within the class (line) and with others (dashed) (figures 5.3, 5.4)": _plot(
            statistics, task, ("intra", "inter"), (-1, 1)
        ),
    }


def _plot(statistics: FeatureStatistics, task: TissueTask, names: tuple[str, ...], limits: tuple[float, float]) -> Rgb:
    figure = Figure(figsize=(5, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    edges = np.linspace(*limits, BINS + 1)
    centers = (edges[:-1] + edges[1:]) / 2
    for index, tissue in enumerate(task.classes):
        for name, style in zip(names, ("-", "--"), strict=False):
            color = tuple(channel / 255 for channel in tissue.color)
            axes.plot(centers, getattr(statistics, name)[index], style, color=color, label=tissue.name if style == "-" else None)
    axes.set_ylabel("density")
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))
