"""One generated training patch: which tissues meet in it, and where. numpy and scipy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .noise import smooth_noise
from .render import GLASS, TEXTURES, render

_CLASS_COUNTS = {1: 0.45, 2: 0.40, 3: 0.15}  # how many tissues meet, and how often
_GLASS_SHARE = 0.2  # of the patches reach over the tissue's edge
_REGION_PX = 55.0


def draw_patch(seed: int, tile_px: int = 224) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """RGB uint8 (tile_px, tile_px, 3) and its exact labels uint8 (tile_px, tile_px), 0…4; the same for the same seed."""
    labels = draw_labels(np.random.default_rng([seed, 7]), tile_px)
    return render(labels, seed), labels


def draw_labels(random: np.random.Generator, tile_px: int) -> npt.NDArray[np.uint8]:
    """One to three tissues in organic regions, glass in some; uint8 (tile_px, tile_px)."""
    count = random.choice(list(_CLASS_COUNTS), p=list(_CLASS_COUNTS.values()))
    tissues = random.permutation(list(TEXTURES))[:count]
    fields = np.stack([smooth_noise(random, (tile_px, tile_px), _REGION_PX) for _ in tissues])
    labels: npt.NDArray[np.uint8] = tissues[fields.argmax(axis=0)].astype(np.uint8)
    if random.random() < _GLASS_SHARE:
        labels[smooth_noise(random, (tile_px, tile_px), 50) > 0.9] = GLASS
    return labels
