"""An evaluation as one HTML page with pictures: image, truth, prediction, where they differ, and heat maps. Self-contained; knows no model."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from clients.overlay import draw_overlay
from serving.contract import TissueTask
from training.datasets.placement import IGNORE_LABEL
from training.metrics import Scores

Rgb = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]
_WIDTH_PX = 260
_PICTURE_PX = 360
_STYLE = (
    "body{font:14px sans-serif;margin:24px;color:#222}table{border-collapse:collapse;margin:12px 0}"
    "td,th{padding:4px 10px;border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}"
    "figure{display:inline-block;margin:4px;vertical-align:top}figcaption{font-size:12px;color:#555}"
    "i{display:inline-block;width:12px;height:12px;margin:0 4px 0 14px}"
)


@dataclass(frozen=True)
class Row:
    """One image of the page: its pictures by caption, in order."""

    title: str
    pictures: Mapping[str, Rgb]


def render_page(title: str, task: TissueTask, scores: Sequence[Scores], notes: Mapping[str, str], rows: Sequence[Row]) -> str:
    """The page."""
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>"]
    parts.append("".join(f"<p>{html.escape(key)}: {html.escape(value)}</p>" for key, value in notes.items()))
    parts.append(_legend(task))
    parts.append(_table(task, scores))
    for row in rows:
        figures = (
            f"<figure><img width={_WIDTH_PX} src='{_data_url(picture)}'><figcaption>{html.escape(caption)}</figcaption></figure>"
            for caption, picture in row.pictures.items()
        )
        parts.append(f"<h3>{html.escape(row.title)}</h3>{''.join(figures)}")
    return "\n".join(parts) + "\n"


def image_row(title: str, rgb: Rgb, truth: Labels, predicted: Labels, task: TissueTask, heat: Mapping[str, Rgb]) -> Row:
    """The pictures of one evaluated image.

    Args:
        heat: heat maps by class name, uint8 RGB.
    """
    truth = np.where(truth == IGNORE_LABEL, 0, truth).astype(np.uint8)
    wrong = (truth != predicted) & (truth > 0)
    differs = np.where(wrong[..., None], np.array([230, 30, 30], dtype=np.uint8), (rgb // 2 + 127).astype(np.uint8))
    pictures: dict[str, Rgb] = {
        "image": rgb,
        "truth": draw_overlay(rgb, truth, task),
        "prediction": draw_overlay(rgb, predicted, task),
        "wrong (red), truth's background left out": differs,
    }
    return Row(title, pictures | dict(heat))


def heat_map(rgb: Rgb, evidence: npt.NDArray[np.float32]) -> Rgb:
    """Evidence 0…1 of one class over the image: (h, w) on any grid, brought to (H, W); dark blue = 0, yellow = 1."""
    size = (rgb.shape[1], rgb.shape[0])
    levels = Image.fromarray(np.rint(np.clip(evidence, 0, 1) * 255).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    value = np.asarray(levels, dtype=np.float32)[..., None] / 255
    stops = np.array([[20, 20, 90], [190, 40, 110], [255, 230, 60]], dtype=np.float32)
    low = stops[0] + (stops[1] - stops[0]) * np.clip(value * 2, 0, 1)
    color = low + (stops[2] - low) * np.clip(value * 2 - 1, 0, 1)
    gray = rgb.mean(axis=2, keepdims=True)
    mixed: Rgb = np.rint(0.45 * gray + 0.55 * color).astype(np.uint8)
    return mixed


def _legend(task: TissueTask) -> str:
    entries = (f"<i style='background:rgb{tissue.color}'></i>{html.escape(tissue.name)}" for tissue in task.classes)
    return f"<p>{''.join(entries)}</p>"


def _table(task: TissueTask, scores: Sequence[Scores]) -> str:
    heads = ("protocol", *(f"IoU {name}" for name in task.class_names), "mIoU", "fwIoU", "accuracy", "mean Dice")
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(head)}</th>" for head in heads) + "</tr>"]
    for entry in scores:
        values = (*entry.iou, entry.miou, entry.fwiou, entry.accuracy, float(np.nanmean(entry.dice)))
        lines.append(f"<tr><td>{entry.protocol}</td>" + "".join(f"<td>{value:.3f}</td>" for value in values) + "</tr>")
    return "".join(lines) + "</table>"


def _data_url(rgb: Rgb) -> str:
    image = Image.fromarray(rgb)
    image.thumbnail((_PICTURE_PX, _PICTURE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
