"""Pictures of a classifier's evidence per class (CAM × SCORES) over the slide, collected while rows of cells go by. Knows no store and no server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from serving.contract import TissueTask

from .blend import CellRows

_BAR_PX = 34
_OPACITY = 0.75
# Black, dark red, orange, yellow, white: dark to bright without a turn, so that it reads in gray too.
_RAMP = np.array([(0, 0, 0), (120, 0, 30), (220, 60, 0), (255, 200, 40), (255, 255, 235)], dtype=np.float32)


class Heatmaps:
    """Collects each thumbnail pixel's cell.

    Args:
        shape: (height, width) of the thumbnail.
        factor: model pixels per thumbnail pixel.

    Attributes:
        evidence: uint8 (C, height, width), 255 = 1.
    """

    def __init__(self, task: TissueTask, shape: tuple[int, int], factor: int, cell_px: int) -> None:
        self.task = task
        self.evidence = np.zeros((len(task.classes), *shape), dtype=np.uint8)
        self._rows, self._columns = ((np.arange(side) * factor + factor // 2) // cell_px for side in shape)
        self._next_c = 0

    def add(self, rows: CellRows) -> None:
        """The next rows of cells, from top to bottom."""
        count = len(rows.covered)
        here = (self._rows >= self._next_c) & (self._rows < self._next_c + count)
        columns = np.minimum(self._columns, rows.covered.shape[1] - 1)
        picked = rows.evidence[1:, self._rows[here] - self._next_c][:, :, columns]
        self.evidence[:, here] = np.rint(np.clip(picked, 0, 1) * 255).astype(np.uint8)
        self._next_c += count

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a later run needs to go on after the rows so far."""
        done = int(np.searchsorted(self._rows, self._next_c))
        return {"heat_next": np.array(self._next_c), "heat": self.evidence[:, :done]}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on where the collector of `state` was."""
        self._next_c = int(state["heat_next"])
        self.evidence[:, : state["heat"].shape[1]] = state["heat"]

    def save(self, folder: Path, stem: str, rgb: npt.NDArray[np.uint8]) -> list[Path]:
        """Write `S.heatmap.<class>.png` for each class, all on the same scale 0…1.

        Args:
            rgb: the thumbnail, uint8 (height, width, 3).
        """
        paths = []
        for tissue, evidence in zip(self.task.classes, self.evidence, strict=True):
            path = folder / f"{stem}.heatmap.{re.sub(r'[^0-9A-Za-z]+', '-', tissue.name)}.png"
            _with_bar(_mix(rgb, evidence), tissue.name).save(path, format="PNG")
            paths.append(path)
        return paths


def _mix(rgb: npt.NDArray[np.uint8], evidence: npt.NDArray[np.uint8]) -> Image.Image:
    """Opaque where there is much, the slide where there is none."""
    weight = (evidence.astype(np.float32) / 255 * _OPACITY)[..., None]
    mixed = rgb * (1 - weight) + _colors(evidence) * weight
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def _colors(evidence: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    stops = np.linspace(0, 255, len(_RAMP))
    table = np.stack([np.interp(np.arange(256), stops, channel) for channel in _RAMP.T], axis=1).astype(np.float32)
    return table[evidence]


def _with_bar(picture: Image.Image, name: str) -> Image.Image:
    width = max(picture.width, 320)
    image = Image.new("RGB", (width, picture.height + _BAR_PX), "white")
    image.paste(picture, (0, 0))
    top = picture.height + 10
    image.paste(Image.fromarray(_colors(np.tile(np.arange(256, dtype=np.uint8)[::2], (14, 1))).astype(np.uint8)), (24, top))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=14)
    draw.text((10, top - 1), "0", fill="black", font=font)
    draw.text((158, top - 1), f"1   evidence of {name}", fill="black", font=font)
    return image
