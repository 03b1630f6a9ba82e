"""Where on a slide there is tissue: saturation against glass, on a thumbnail of fixed physical scale. Knows no server."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .frame import Frame, choose_frame, read_frame
from .slide import Slide

THUMBNAIL_MPP = 8.0
# Otsu finds two groups where there is one: on a slide without glass it would cut through the tissue, on an empty one through noise.
# Stained tissue is more saturated than the upper bound, clean glass less than the lower one.
THRESHOLD_RANGE = (0.04, 0.12)
MIN_AREA_UM2 = 2_500.0  # smaller specks are dust
MARGIN_UM = 32.0
_ROWS = 256


def tissue_mask(slide: Slide, mpp_l0: tuple[float, float], grid_shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which cells of a grid over the slide hold tissue, bool of `grid_shape` (rows, columns).

    Args:
        mpp_l0: micrometers per level-0 pixel, (x, y).
    """
    frame = choose_frame(slide, mpp_l0, max(THUMBNAIL_MPP, *mpp_l0))
    mask = mask_saturated(read_saturation(slide, frame), frame.mpp_x * frame.mpp_y, (frame.mpp_x + frame.mpp_y) / 2)
    rows, columns = (np.minimum(np.arange(cells) * side // cells, side - 1) for cells, side in zip(grid_shape, mask.shape, strict=True))
    spread: npt.NDArray[np.bool_] = mask[np.ix_(rows, columns)]
    return spread


def read_saturation(slide: Slide, frame: Frame) -> npt.NDArray[np.float32]:
    """HSV saturation of the whole frame, 0…1, read strip by strip."""
    strips = []
    for top in range(0, frame.height_m, _ROWS):
        rgb = read_frame(slide, frame, 0, top, frame.width_m, min(_ROWS, frame.height_m - top)).astype(np.float32)
        high, low = rgb.max(axis=2), rgb.min(axis=2)
        strips.append((high - low) / np.maximum(high, 1))
    return np.concatenate(strips)


def mask_saturated(saturation: npt.NDArray[np.float32], pixel_um2: float, mpp: float) -> npt.NDArray[np.bool_]:
    """Smoothed saturation above Otsu's threshold, without specks, widened by a margin; bool of the same shape."""
    smooth = ndimage.gaussian_filter(saturation, 1)
    mask = smooth > np.clip(otsu_threshold(smooth), *THRESHOLD_RANGE)
    components, count = ndimage.label(mask, structure=np.ones((3, 3)))
    areas = np.bincount(components.ravel(), minlength=count + 1) * pixel_um2
    areas[0] = 0
    margin = max(1, round(MARGIN_UM / mpp))
    widened: npt.NDArray[np.bool_] = ndimage.binary_dilation((areas >= MIN_AREA_UM2)[components], iterations=margin)
    return widened


def otsu_threshold(values: npt.NDArray[np.float32]) -> float:
    """The cut of 0…1 that separates two groups best (Otsu 1979), on 256 bins."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = counts.sum() - below
    mass = np.cumsum(counts * centers)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(edges[1 + int(np.nan_to_num(between).argmax())])
