"""Slides painted in flat colors that say their class, and a served model that reads them: the mask that must come out is known to the pixel."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from serving.contract import CAM, PROBABILITIES, SCORES, BackgroundRule, Contract, Kind
from serving.tasks import get_task

TILE_PX, CELL_PX, CLASSES = 64, 4, 4
RULE = BackgroundRule(gray_above=200, min_size_px=20)
RED_STEP = 40  # class k is painted with red 40·k: what the fake network reads
GLASS = (245, 245, 245)

Rgb = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


def contract(kind: Kind = "segment", rule: BackgroundRule | None = RULE, mpp: float = 0.5) -> Contract:
    task = dataclasses.replace(get_task("demo"), tile_px=TILE_PX, background=rule, mpp=mpp)
    return Contract(task, kind, "painted", CELL_PX, release=f"painted_r1_{kind}", slide_model=f"painted_r1_{kind}_slide")


def paint(labels: Labels) -> Rgb:
    """Saturated colors for 1…4, glass for 0."""
    rgb = np.empty((*labels.shape, 3), dtype=np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = labels * np.uint8(RED_STEP), 30, 190
    rgb[labels == 0] = GLASS
    return rgb


def read_classes(rgb: Rgb) -> Labels:
    """The inverse of `paint`."""
    return np.where(rgb[..., 1] > 200, 0, np.rint(rgb[..., 0] / RED_STEP)).astype(np.uint8)


def answers(tiles: Rgb, cells: int = TILE_PX // CELL_PX) -> dict[str, npt.NDArray[Any]]:
    """What a network would say that reads the colors: tiles (n, tile_px, tile_px, 3) → every output by name."""
    centers = np.arange(cells) * CELL_PX + CELL_PX // 2
    classes = read_classes(tiles[:, centers][:, :, centers])
    levels = (np.eye(CLASSES + 1, dtype=np.uint8)[classes] * 255).transpose(0, 3, 1, 2)
    cam = (levels[:, 1:] > 0).astype(np.float32)
    return {PROBABILITIES: levels, CAM: cam, SCORES: np.where(cam.max(axis=(2, 3)) > 0, 0.9, 0.1).astype(np.float32)}


def write_slide(path: Path, rgb: Rgb, mpp: float | None, levels: int = 1) -> Path:
    """A lossless tiled TIFF that OpenSlide opens; further levels are every second pixel."""
    resolution = (1e4 / mpp, 1e4 / mpp) if mpp else (1, 1)
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            writer.write(
                rgb[:: 2**level, :: 2**level],
                tile=(64, 64),
                photometric="rgb",
                compression="adobe_deflate",
                subfiletype=1 if level else 0,
                resolution=resolution,
                resolutionunit="CENTIMETER" if mpp else "NONE",
                metadata=None,
            )
    return path


def stripes(shape: tuple[int, int], horizontal: bool = False, margin: int = 96) -> Labels:
    """Classes 1…4 in stripes of different widths (multiples of a cell), glass around them. Straight edges on cell borders: upsampling is exact there."""
    height, width = shape
    line = np.zeros(height if horizontal else width, dtype=np.uint8)
    start = margin
    for index in range(1000):
        stop = start + 4 * (5 + 3 * (index % 7))
        if stop > len(line) - margin:
            break
        line[start:stop] = index % CLASSES + 1
        start = stop
    return np.repeat(line[:, None], width, axis=1) if horizontal else np.repeat(line[None], height, axis=0)
