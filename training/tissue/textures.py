"""The four generated tissues, each by its structure: how much hematoxylin and eosin every pixel holds. Lengths are pixels at 0.5 µm.

Colors of the four overlap on purpose: what tells them apart is nuclear density (tumor), rings (gland), fiber direction
(stroma) and debris (necrosis).
"""

from __future__ import annotations

import numpy as np

from .glands import draw_glands
from .noise import Field, Mask, keep_inside, scatter_points, smooth_noise
from .nuclei import NucleusShape, draw_nuclei, draw_spindles, stamp

Stains = tuple[Field, Field]  # hematoxylin, eosin; both of the mask's shape, about 0…1.2

_TUMOR_NUCLEUS = NucleusShape(radius_px=(4.2, 6.6), elongation=(1.0, 1.5), roughness=0.07, rim=0.35)
_DUST = NucleusShape(radius_px=(0.9, 2.3), elongation=(1.0, 1.6), roughness=0.1, rim=0.0)
_DIRECTIONS = 16


def tumor(random: np.random.Generator, mask: Mask) -> Stains:
    """Sheets of crowded, large, vesicular nuclei."""
    points = keep_inside(scatter_points(random, mask.shape, 12.5, 0.17), mask)
    points = points[random.random(len(points)) > 0.06]
    nuclei = draw_nuclei(random, _TUMOR_NUCLEUS, 96)
    canvas = np.zeros(mask.shape, dtype=np.float32)
    stamp(canvas, points, nuclei, random.integers(len(nuclei), size=len(points)), random.uniform(0.75, 1.15, len(points)))
    return canvas * 0.85 + 0.06, 0.34 + 0.05 * smooth_noise(random, mask.shape, 3)


def gland(random: np.random.Generator, mask: Mask) -> Stains:
    """Rings of palisade nuclei around a pale lumen, in a loose ground."""
    hematoxylin = 0.16 + 0.03 * smooth_noise(random, mask.shape, 2)
    eosin = 0.42 + 0.08 * smooth_noise(random, mask.shape, 2.5)
    canvas = draw_glands(random, mask, hematoxylin, eosin)
    return hematoxylin + canvas * 0.8, eosin


def stroma(random: np.random.Generator, mask: Mask) -> Stains:
    """Wavy bundles of fibers with sparse spindle nuclei lying along them."""
    phase = _fiber_phase(random, mask.shape)
    wave = np.sin(2 * np.pi * phase) + 0.5 * np.sin(2 * np.pi * 0.53 * phase + 2 * smooth_noise(random, mask.shape, 30))
    grain = smooth_noise(random, mask.shape, 1.2)
    points = keep_inside(scatter_points(random, mask.shape, 34, 0.3), mask)
    pixels = tuple(np.rint(points).astype(np.int64).T)
    slope_y, slope_x = np.gradient(phase, axis=0), np.gradient(phase, axis=1)
    along = np.arctan2(slope_y[pixels], slope_x[pixels]) + np.pi / 2  # fibers are level lines of the phase
    direction = np.rint((along % np.pi) / np.pi * _DIRECTIONS).astype(np.int64) % _DIRECTIONS
    canvas = np.zeros(mask.shape, dtype=np.float32)
    stamp(canvas, points, draw_spindles(9, 2.2, _DIRECTIONS), direction, random.uniform(0.6, 0.9, len(points)))
    return 0.20 + 0.05 * wave + 0.02 * grain + canvas * 0.8, 0.50 + 0.17 * wave + 0.05 * grain


def necrosis(random: np.random.Generator, mask: Mask) -> Stains:
    """Granular debris strewn with clumps of nuclear dust."""
    clumps = smooth_noise(random, mask.shape, 14)
    fine, coarse = smooth_noise(random, mask.shape, 1.0), smooth_noise(random, mask.shape, 2.2)
    points = keep_inside(scatter_points(random, mask.shape, 7.0, 0.35), mask)
    density = 0.62 + 0.25 * clumps[tuple(np.rint(points).astype(np.int64).T)]
    points = points[random.random(len(points)) < np.clip(density, 0.15, 1)]
    dust = draw_nuclei(random, _DUST, 48)
    canvas = np.zeros(mask.shape, dtype=np.float32)
    stamp(canvas, points, dust, random.integers(len(dust), size=len(points)), random.uniform(0.5, 1.3, len(points)))
    return 0.16 + 0.05 * coarse + 0.05 * fine + canvas * 0.85, 0.44 + 0.09 * coarse + 0.10 * fine + 0.03 * clumps


def _fiber_phase(random: np.random.Generator, shape: tuple[int, int]) -> Field:
    """A smooth field that grows by 1 from fiber to fiber (8 px): a plane of random direction, bent."""
    period_px = np.float32(8.0)
    angle = random.uniform(0, np.pi)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    plane = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    phase: Field = (plane + 20 * smooth_noise(random, shape, 60) + 1.75 * smooth_noise(random, shape, 18)) / period_px
    return phase
