"""Nuclei as small images of hematoxylin, and their placement on a canvas. Knows no tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .noise import Field, Points, wobble

_EDGE_PX = 1.2  # how soft an outline is


@dataclass(frozen=True)
class NucleusShape:
    """What the nuclei of one tissue look like.

    Attributes:
        radius_px: smallest and largest.
        elongation: smallest and largest ratio of the axes.
        roughness: of the outline.
        rim: 0 = evenly dark; towards 1 = vesicular, pale inside with a dark membrane.
    """

    radius_px: tuple[float, float]
    elongation: tuple[float, float]
    roughness: float
    rim: float


def draw_nuclei(random: np.random.Generator, shape: NucleusShape, count: int) -> list[Field]:
    """`count` different nuclei, each a square float32 image of odd side with values 0…1.4."""
    return [_draw_nucleus(random, shape) for _ in range(count)]


def draw_spindles(half_length_px: float, half_width_px: float, directions: int) -> list[Field]:
    """One thin nucleus in each of `directions` orientations, evenly over half a turn."""
    half_px = int(half_length_px) + 2
    spindles = []
    for index in range(directions):
        along, across = _axes(half_px, np.pi * index / directions)
        distance = np.hypot(along / half_length_px, across / half_width_px)
        spindles.append(np.clip((1 - distance) * 2 + 0.3, 0, 1).astype(np.float32))
    return spindles


def stamp(canvas: Field, points: Points, nuclei: Sequence[Field], which: npt.NDArray[np.int64], darkness: npt.NDArray[np.float64]) -> None:
    """Put nucleus `which[i]`, times `darkness[i]`, at `points[i]` (y, x); where two overlap, the darker shows. Changes the canvas."""
    for (y, x), index, gain in zip(points, which, darkness, strict=True):
        nucleus = nuclei[index]
        half_px = nucleus.shape[0] // 2
        top, left = int(y) - half_px, int(x) - half_px
        rows = slice(max(0, top), min(canvas.shape[0], top + nucleus.shape[0]))
        columns = slice(max(0, left), min(canvas.shape[1], left + nucleus.shape[1]))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        part = nucleus[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
        np.maximum(canvas[rows, columns], part * np.float32(gain), out=canvas[rows, columns])


def _draw_nucleus(random: np.random.Generator, shape: NucleusShape) -> Field:
    radius_px = random.uniform(*shape.radius_px)
    stretch = np.sqrt(random.uniform(*shape.elongation))
    along, across = _axes(int(np.ceil(radius_px * stretch * 1.35 + 1)), random.uniform(0, np.pi))
    outline = 1 + wobble(random, np.arctan2(across, along), shape.roughness, range(2, 6))
    distance = np.hypot(along / (radius_px * stretch), across * stretch / radius_px) / outline
    inside = np.clip((1 - distance) * radius_px / _EDGE_PX + 0.5, 0, 1)
    chromatin = ndimage.gaussian_filter(random.standard_normal(distance.shape), 1.0)
    chromatin /= chromatin.std() + 1e-6
    tone = 1 - shape.rim * (1 - np.clip(distance, 0, 1) ** 2) + 0.14 * chromatin
    nucleus: Field = (inside * np.clip(tone, 0.25, 1.4)).astype(np.float32)
    return nucleus


def _axes(half_px: int, angle: float) -> tuple[Field, Field]:
    """Pixel coordinates along and across a direction, around the center of a square of side 2·half + 1."""
    y, x = np.mgrid[-half_px : half_px + 1, -half_px : half_px + 1].astype(np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cosine + y * sine, y * cosine - x * sine
