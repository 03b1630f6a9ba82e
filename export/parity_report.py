"""What a failed gate leaves for the eye: the worst tile of every graph as a picture, all figures as HTML and JSON. Knows no graph."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.contract import TissueTask

from .errors import PublishError
from .figures import Labels, ParityReport, Tiles, Worst

PAGE, NUMBERS = "report.html", "report.json"
_GAP_PX = 8
_MISS, _HIT = (220, 0, 0), 160  # red where labels differ, on the tile in pale gray
_STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}table{border-collapse:collapse;margin:8px 0 20px}td,th{padding:3px 10px;"
    "border-bottom:1px solid #ddd;text-align:left}.out{color:#b00;font-weight:bold}img{max-width:100%;image-rendering:pixelated}"
    "i{display:inline-block;width:12px;height:12px;margin:0 4px 0 14px}"
)


def report_folder(parent: Path, model: str) -> Path:
    """Where the report of a model goes; an older one of the same model is written over."""
    return parent / f"parity-failed-{model}"


def write_parity_report(folder: Path, model: str, error: str, reports: Sequence[ParityReport], task: TissueTask) -> Path:
    """Write the folder; the page's path.

    Args:
        error: what the command says.
        task: gives the classes' names and colors.

    Raises:
        PublishError: the folder cannot be written.
    """
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(model)}</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>{html.escape(model)}: parity failed</h1><p>{html.escape(error)}</p>{_legend(task)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for report in reports:
            parts.append(_section(report, _write_picture(folder, report, task)))
        content = {"model": model, "error": error, "reports": [report.to_dict() for report in reports]}
        (folder / NUMBERS).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / PAGE).write_text("\n".join(parts) + "\n", encoding="utf-8")
    except OSError as fault:
        raise PublishError(f"{folder}: expected a place for the report that can be written to: {fault}. {error}") from fault
    return folder / PAGE


def draw_worst(worst: Worst, task: TissueTask) -> Tiles:
    """Four panels side by side, uint8 (H, 4W + gaps, 3): the tile, the labels expected, those got, and in red where they differ."""
    gray = np.repeat(worst.tile.mean(axis=2, keepdims=True), 3, axis=2) / 2 + 127 - _HIT / 8
    missed = (worst.expected != worst.got)[:, :, None]
    differences = np.where(missed, np.array(_MISS), gray).astype(np.uint8)
    gap = np.full((len(worst.tile), _GAP_PX, 3), 255, dtype=np.uint8)
    panels = (worst.tile, _colored(worst.expected, task), _colored(worst.got, task), differences)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _colored(labels: Labels, task: TissueTask) -> npt.NDArray[np.uint8]:
    """Background white. A label beyond the task's classes, which only a wrong graph gives, black."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(task.classes) + 1] = [(255, 255, 255), *(tissue.color for tissue in task.classes)]
    return palette[labels]


def _write_picture(folder: Path, report: ParityReport, task: TissueTask) -> str | None:
    """The picture's file name; None where nothing was measured."""
    if report.worst is None:
        return None
    name = f"worst-{report.graph.replace(' ', '-')}-{report.engine}.png"
    Image.fromarray(draw_worst(report.worst, task)).save(folder / name)
    return name


def _section(report: ParityReport, picture: str | None) -> str:
    title = f"<h2>{html.escape(report.graph)} in {html.escape(report.engine)}</h2>"
    if report.not_run is not None or report.worst is None or picture is None:
        return f"{title}<p>not run: {html.escape(report.not_run or 'no reason given')}</p>"
    rows = "".join(
        f"<tr{'' if figure.is_within else ' class=out'}><td>{figure.name}<td>{figure.value:.6g}<td>{html.escape(figure.limit)}"
        for figure in report.figures
    )
    missed = float((report.worst.expected != report.worst.got).mean())
    caption = (
        f"worst: {report.worst.where}; {missed:.3%} of its labels differ. Tile, expected by {report.reference}, got, differences in red"
    )
    return (
        f"{title}<p>{report.tiles} tiles against {html.escape(report.reference)}</p>"
        f"<table><tr><th>figure<th>value<th>limit{rows}</table><p>{html.escape(caption)}</p><img src='{picture}'>"
    )


def _legend(task: TissueTask) -> str:
    entries = ((tissue.name, "#{:02x}{:02x}{:02x}".format(*tissue.color)) for tissue in task.classes)
    return "<p>" + "".join(f"<i style='background:{color}'></i>{html.escape(name)}" for name, color in entries) + "</p>"
