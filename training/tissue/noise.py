"""Smooth random fields and scattered points: the randomness that generated tissue is made of. numpy and scipy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Field = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]


def smooth_noise(random: np.random.Generator, shape: tuple[int, int], sigma_px: float) -> Field:
    """Gaussian noise of mean 0, unit variance and correlation length `sigma_px`, float32 of `shape`; drawn on a coarser grid where that suffices."""
    step = max(1, int(sigma_px // 3))
    coarse_shape = (shape[0] // step + 3, shape[1] // step + 3)
    coarse = ndimage.gaussian_filter(random.standard_normal(coarse_shape, dtype=np.float32), sigma_px / step, mode="wrap")
    coarse -= coarse.mean()  # a canvas smaller than the correlation length would be all mean
    coarse /= max(float(coarse.std()), 1e-6)
    fine: Field = ndimage.zoom(coarse, step, order=1) if step > 1 else coarse
    return fine[: shape[0], : shape[1]]


def scatter_points(random: np.random.Generator, shape: tuple[int, int], spacing_px: float, jitter: float) -> Points:
    """A hexagonal-like grid of (y, x) over `shape` with a margin, each point moved by `jitter` (a share of the spacing): cells rarely overlap."""
    rows, columns = (int(side / spacing_px) + 3 for side in shape)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    x += 0.5 * (np.arange(rows) % 2)[:, None]
    points = np.stack([y, x], axis=-1).reshape(-1, 2) * spacing_px - spacing_px + random.uniform(0, spacing_px, 2)
    moved: Points = points + random.normal(0, jitter * spacing_px, points.shape)
    return moved


def keep_inside(points: Points, mask: Mask) -> Points:
    """The points whose pixel lies in the mask."""
    pixels = np.rint(points).astype(np.int64)
    on_canvas = ((pixels >= 0) & (pixels < mask.shape)).all(axis=1)
    points, pixels = points[on_canvas], pixels[on_canvas]
    kept: Points = points[mask[pixels[:, 0], pixels[:, 1]]]
    return kept


def wobble(random: np.random.Generator, angle: Field, roughness: float, harmonics: range) -> Field:
    """An irregular outline's relative radius minus 1, as a function of the angle."""
    total = np.zeros_like(angle)
    for harmonic in harmonics:
        total += random.normal(0, roughness / harmonic) * np.cos(harmonic * angle + random.uniform(0, 2 * np.pi))
    return total
