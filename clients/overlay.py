"""The picture people look at first: the slide with its mask over it, and a legend. Knows no store and no server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from serving.contract import TissueTask

_OPACITY = 0.45
_LEGEND_PX = 30


def draw_overlay(rgb: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], task: TissueTask) -> npt.NDArray[np.uint8]:
    """Blend class colors over the slide; background stays as it is.

    Args:
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W), 0…C, of the same size.
    """
    palette = np.array([(0, 0, 0), *(tissue.color for tissue in task.classes)], dtype=np.float32)
    mixed = rgb * (1 - _OPACITY) + palette[labels] * _OPACITY
    overlay: npt.NDArray[np.uint8] = np.where((labels > 0)[..., None], np.rint(mixed), rgb).astype(np.uint8)
    return overlay


def save_overlay(path: Path, overlay: npt.NDArray[np.uint8], task: TissueTask, areas_mm2: Mapping[str, float]) -> None:
    """Write the overlay as PNG with a legend below it; the slide's pixels start at the image's upper left corner."""
    height, width = overlay.shape[:2]
    image = Image.new("RGB", (width, height + _LEGEND_PX), "white")
    image.paste(Image.fromarray(overlay), (0, 0))
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=15)
    x = 8
    for tissue in task.classes:
        draw.rectangle((x, height + 8, x + 14, height + 22), fill=tissue.color)
        text = f"{tissue.name}  {areas_mm2[tissue.name]:.2f} sq mm"
        draw.text((x + 20, height + 6), text, fill="black", font=font)
        x += 20 + int(draw.textlength(text, font=font)) + 24
    image.save(path)
