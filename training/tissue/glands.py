"""Gland rings: a pale lumen, a band of cytoplasm, and a palisade of nuclei at its outer edge. Lengths are pixels at 0.5 µm."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .noise import Field, Mask, Points, scatter_points, wobble
from .nuclei import NucleusShape, draw_nuclei, stamp

_SPACING_PX = 54
_NUCLEUS = NucleusShape(radius_px=(3.2, 4.6), elongation=(1.2, 1.9), roughness=0.05, rim=0.3)
_NUCLEUS_SPACING_PX = 7.0
_PALISADE = 0.82  # of the radius
_LUMEN = 0.42


@dataclass(frozen=True)
class _Ring:
    """An ellipse of mean radius `radius_px`, its long axis `stretch` times that, turned by `angle`."""

    center: npt.NDArray[np.float64]  # y, x
    radius_px: float
    stretch: float
    angle: float


def draw_glands(random: np.random.Generator, mask: Mask, hematoxylin: Field, eosin: Field) -> Field:
    """Draw rings over the mask: changes the ground's two stains and returns the canvas of nuclei."""
    nuclei = draw_nuclei(random, _NUCLEUS, 48)
    canvas = np.zeros(mask.shape, dtype=np.float32)
    for center in scatter_points(random, mask.shape, _SPACING_PX, 0.10):
        ring = _Ring(center, random.uniform(19, 26), np.sqrt(random.uniform(1, 1.35)), random.uniform(0, np.pi))
        window = _window(ring, mask.shape)
        if not mask[window].any():
            continue
        _fill(random, ring, window, hematoxylin, eosin)
        points = _palisade(random, ring)
        stamp(canvas, points, nuclei, random.integers(len(nuclei), size=len(points)), random.uniform(0.8, 1.1, len(points)))
    return canvas


def _window(ring: _Ring, shape: tuple[int, ...]) -> tuple[slice, slice]:
    half_px = int(ring.radius_px * 1.4) + 2
    starts = [max(0, int(center) - half_px) for center in ring.center]
    stops = [max(start, min(side, int(center) + half_px + 1)) for start, center, side in zip(starts, ring.center, shape, strict=True)]
    return slice(starts[0], stops[0]), slice(starts[1], stops[1])


def _fill(random: np.random.Generator, ring: _Ring, window: tuple[slice, slice], hematoxylin: Field, eosin: Field) -> None:
    y, x = np.mgrid[window].astype(np.float32)
    down, right = y - np.float32(ring.center[0]), x - np.float32(ring.center[1])
    cosine, sine = np.float32(np.cos(ring.angle)), np.float32(np.sin(ring.angle))
    along, across = right * cosine + down * sine, down * cosine - right * sine
    outline = 1 + wobble(random, np.arctan2(across, along), 0.07, range(2, 5))
    distance = np.hypot(along / ring.stretch, across * ring.stretch) / (np.float32(ring.radius_px) * outline)
    cell = _soft(1 - distance, ring.radius_px)
    lumen = _soft(_LUMEN - distance, ring.radius_px)
    hematoxylin[window] += cell * (0.17 - 0.07 * lumen - hematoxylin[window])
    eosin[window] += cell * (0.36 - 0.20 * lumen - eosin[window])


def _soft(inwards: Field, radius_px: float) -> Field:
    """0 outside, 1 inside, with an edge of 1.5 px."""
    soft: Field = np.clip(inwards * (radius_px / 1.5) + 0.5, 0, 1).astype(np.float32)
    return soft


def _palisade(random: np.random.Generator, ring: _Ring) -> Points:
    reach_px = ring.radius_px * _PALISADE
    count = int(2 * np.pi * reach_px / _NUCLEUS_SPACING_PX)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False) + random.normal(0, 0.05, count)
    along, across = np.cos(angle) * reach_px * ring.stretch, np.sin(angle) * reach_px / ring.stretch
    cosine, sine = np.cos(ring.angle), np.sin(ring.angle)
    offsets = np.stack([along * sine + across * cosine, along * cosine - across * sine], axis=-1)
    points: Points = ring.center + offsets
    return points
