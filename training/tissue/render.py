"""Label image in, H&E-like picture out: textures per class, stain that varies, light through the glass (Beer–Lambert). numpy and scipy only.

Absorption of the two stains: Ruifrok & Johnston, Anal Quant Cytol Histol 2001 (normalized optical densities of hematoxylin and eosin).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .noise import Field, Mask, smooth_noise
from .textures import Stains, gland, necrosis, stroma, tumor

GLASS, TUMOR, GLAND, STROMA, NECROSIS = range(5)  # labels of task `demo`: 0 = glass
TEXTURES: dict[int, Callable[[np.random.Generator, Mask], Stains]] = {
    TUMOR: tumor,
    GLAND: gland,
    STROMA: stroma,
    NECROSIS: necrosis,
}
_HEMATOXYLIN = np.array([0.65, 0.70, 0.29], dtype=np.float32) * 1.25
_EOSIN = np.array([0.07, 0.99, 0.11], dtype=np.float32) * 0.95
_PLASTIC = np.array([0.096, 0.086, 0.067], dtype=np.float32)  # even the palest tissue absorbs a little
_GLASS = np.array([0.027, 0.030, 0.027], dtype=np.float32)
_LAMP = 248.0
_NOISE = 1.6  # of the camera, in gray levels
_GAIN_IMAGE, _GAIN_REGION, _REGION_PX = 0.12, 0.13, 90.0


def render(labels: npt.NDArray[np.uint8], seed: int) -> npt.NDArray[np.uint8]:
    """A picture of tissue whose exact truth is `labels`.

    Args:
        labels: uint8 (H, W), 0 = glass, 1…4 = tumor, gland, stroma, necrosis.

    Returns:
        uint8 RGB (H, W, 3), as at 0.5 µm per pixel.
    """
    random = np.random.default_rng(seed)
    hematoxylin, eosin = (np.zeros(labels.shape, dtype=np.float32) for _ in range(2))
    for label, draw in TEXTURES.items():
        mask = labels == label
        if mask.any():
            stains = draw(random, ndimage.binary_dilation(mask))  # nuclei reach over the edge, then are cut along it
            hematoxylin[mask], eosin[mask] = stains[0][mask], stains[1][mask]
    hematoxylin = ndimage.gaussian_filter(np.clip(hematoxylin, 0, None) * _stain_gain(random, labels.shape), 0.6)
    eosin = ndimage.gaussian_filter(np.clip(eosin, 0.03, None) * _stain_gain(random, labels.shape), 0.8)
    return _expose(random, labels > GLASS, hematoxylin, eosin)


def _stain_gain(random: np.random.Generator, shape: tuple[int, ...]) -> Field:
    """How strongly a stain took, by image and by region: so that color alone tells little."""
    region = smooth_noise(random, (shape[0], shape[1]), _REGION_PX)
    gain: Field = np.exp(np.float32(random.normal(0, _GAIN_IMAGE)) + np.float32(_GAIN_REGION) * region)
    return gain


def _expose(random: np.random.Generator, tissue: Mask, hematoxylin: Field, eosin: Field) -> npt.NDArray[np.uint8]:
    dust = 1 + 0.4 * smooth_noise(random, (tissue.shape[0], tissue.shape[1]), 200)
    rgb = np.empty((*tissue.shape, 3), dtype=np.uint8)
    for channel in range(3):  # one at a time: a slide's float image would be gigabytes
        density = hematoxylin * _HEMATOXYLIN[channel] + eosin * _EOSIN[channel] + _PLASTIC[channel]
        density = np.where(tissue, density, dust * _GLASS[channel])
        light = np.float32(_LAMP) * np.exp(-density) + np.float32(_NOISE) * random.standard_normal(tissue.shape, dtype=np.float32)
        rgb[..., channel] = np.clip(light, 0, 255)
    return rgb
