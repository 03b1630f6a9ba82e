"""Where on a slide there is tissue: saturation against glass, on a thumbnail of fixed physical scale. Knows no server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo
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


@dataclass(frozen=True)
class TissueMap:
    """Where tissue is, small.

    Attributes:
        mask: bool (H, W), over the whole slide from its upper left corner.
        mpp: micrometers per pixel of the mask, (x, y).
        source: who says so.
    """

    mask: npt.NDArray[np.bool_]
    mpp: tuple[float, float]
    source: str

    def spread(self, grid_shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The mask on a grid of (rows, columns) over the slide, by nearest neighbor."""
        shapes = zip(grid_shape, self.mask.shape, strict=True)
        rows, columns = (np.minimum(np.arange(cells) * side // cells, side - 1) for cells, side in shapes)
        spread: npt.NDArray[np.bool_] = self.mask[np.ix_(rows, columns)]
        return spread

    def save(self, path: Path) -> None:
        """Write a PNG, 255 = tissue, with `mpp` (x y) and `source` as its texts; `--tissue` takes it as it is."""
        texts = PngInfo()
        texts.add_text("mpp", f"{self.mpp[0]:.9g} {self.mpp[1]:.9g}")
        texts.add_text("source", self.source)
        Image.fromarray(self.mask.astype(np.uint8) * np.uint8(255)).save(path, format="PNG", pnginfo=texts)


def tissue_mask(slide: Slide, mpp_l0: tuple[float, float], grid_shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which cells of a grid over the slide hold tissue, bool of `grid_shape` (rows, columns).

    Args:
        mpp_l0: micrometers per level-0 pixel, (x, y).
    """
    return find_tissue(slide, mpp_l0).spread(grid_shape)


def find_tissue(slide: Slide, mpp_l0: tuple[float, float]) -> TissueMap:
    """Tissue by saturation, at `THUMBNAIL_MPP` or the slide's own scale where that is coarser.

    Args:
        mpp_l0: micrometers per level-0 pixel, (x, y).
    """
    frame = thumbnail_frame(slide, mpp_l0)
    mask = mask_saturated(read_saturation(slide, frame), frame.mpp_x * frame.mpp_y, (frame.mpp_x + frame.mpp_y) / 2)
    return TissueMap(mask, (frame.mpp_x, frame.mpp_y), "saturation above Otsu's threshold")


def thumbnail_frame(slide: Slide, mpp_l0: tuple[float, float]) -> Frame:
    """Where the pixels of a tissue map lie."""
    return choose_frame(slide, mpp_l0, max(THUMBNAIL_MPP, *mpp_l0))


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
