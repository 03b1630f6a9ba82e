"""The picture people look at first: the slide with its mask over it, a legend and a scale bar. Knows no store and no server."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from serving.contract import Rgb, TissueTask

_OPACITY = 0.45
_LINE_PX = 30
_NARROWEST_PX = 320
_BAR_SHARE = 0.2  # of the picture's width that a scale bar is at most
_FONT = ImageFont.load_default(size=15)


@dataclass(frozen=True)
class _Entry:
    """A colored box, or the scale bar where there is no color, and its text."""

    text: str
    color: Rgb | None
    mark_px: int

    @property
    def width_px(self) -> int:
        return self.mark_px + 6 + math.ceil(_FONT.getlength(self.text)) + 24


def draw_overlay(rgb: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], task: TissueTask) -> npt.NDArray[np.uint8]:
    """Blend class colors over the slide; background stays as it is.

    Args:
        rgb: uint8 (H, W, 3).
        labels: uint8 (H, W), 0…C, of the same size.
    """
    palette = np.array([(0, 0, 0), *(tissue.color for tissue in task.classes)], dtype=np.float32)
    values = np.arange(256, dtype=np.uint8)
    # What becomes of each value of each channel under each label: (C + 1)·256 mixtures instead of one for each pixel.
    table = np.rint(values[None, :, None] * (1 - _OPACITY) + palette[:, None] * _OPACITY).astype(np.uint8)
    table[0] = values[:, None]
    first = labels.astype(np.uint16) * np.uint16(256)
    return np.stack([table[..., channel].ravel().take(first + rgb[..., channel]) for channel in range(3)], axis=-1)


def save_overlay(
    path: Path, overlay: npt.NDArray[np.uint8], task: TissueTask, areas_mm2: Mapping[str, float], mpp: float | None = None
) -> None:
    """Write the overlay as PNG with a legend below it; the slide's pixels start at the image's upper left corner.

    Args:
        mpp: micrometers per pixel of the overlay; with it there is a scale bar.
    """
    height, width = overlay.shape[:2]
    entries = [_Entry(f"{tissue.name}  {areas_mm2[tissue.name]:.2f} sq mm", tissue.color, 14) for tissue in task.classes]
    if mpp is not None:
        length_um = bar_length_um(width * mpp * _BAR_SHARE)
        entries.insert(0, _Entry(_length_text(length_um), None, max(1, round(length_um / mpp))))
    lines = _flow(entries, max(width, _NARROWEST_PX))
    image = Image.new("RGB", (max(width, _NARROWEST_PX), height + _LINE_PX * len(lines)), "white")
    image.paste(Image.fromarray(overlay), (0, 0))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        _draw_line(draw, line, height + number * _LINE_PX)
    image.save(path)


def bar_length_um(longest_um: float) -> float:
    """The longest of 1, 2, 5 times a power of ten that is not longer."""
    power = 10.0 ** math.floor(math.log10(longest_um))
    return max(step * power for step in (1, 2, 5) if step * power <= longest_um * (1 + 1e-9))


def _length_text(length_um: float) -> str:
    return f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"  # the font that Pillow brings has no µ


def _flow(entries: list[_Entry], width_px: int) -> list[list[_Entry]]:
    """Entries into lines that are not wider, one entry at least in each."""
    lines: list[list[_Entry]] = [[]]
    used = 8
    for entry in entries:
        if lines[-1] and used + entry.width_px > width_px:
            lines.append([])
            used = 8
        lines[-1].append(entry)
        used += entry.width_px
    return lines


def _draw_line(draw: ImageDraw.ImageDraw, line: list[_Entry], top: int) -> None:
    x = 8
    for entry in line:
        if entry.color is None:
            draw.rectangle((x, top + 13, x + entry.mark_px - 1, top + 17), fill="black")
        else:
            draw.rectangle((x, top + 8, x + 14, top + 22), fill=entry.color)
        draw.text((x + entry.mark_px + 6, top + 6), entry.text, fill="black", font=_FONT)
        x += entry.width_px
