"""Which cells of a slide hold tissue, by whoever is to say so: the thumbnail, a mask image, polygons, or nobody. Knows no model and no server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, UnidentifiedImageError

from .errors import RegionError
from .frame import Frame
from .placement import place_frame
from .roi import Region, read_region
from .slide import Slide
from .tiling import TileGrid
from .tissue import TissueMap, find_tissue, thumbnail_frame

ASPECT_WITHIN = 0.01  # of the slide's ratio of sides; a small mask may be off by more: by a pixel and a half
_IMAGES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
_POLYGONS = (".geojson", ".json", ".geojson.gz", ".json.gz")


@dataclass(frozen=True)
class TissueCells:
    """Where there is tissue.

    Attributes:
        cells: bool (height_c, width_c).
        shown: the same at thumbnail size, to be saved.
    """

    cells: npt.NDArray[np.bool_]
    shown: TissueMap


def tissue_of_thumbnail(slide: Slide, mpp_l0: tuple[float, float], grid: TileGrid) -> TissueCells:
    """Saturated places (`find_tissue`)."""
    found = find_tissue(slide, mpp_l0)
    return TissueCells(found.spread((grid.height_c, grid.width_c)), found)


def tissue_everywhere(slide: Slide, mpp_l0: tuple[float, float], grid: TileGrid) -> TissueCells:
    """Every tile is to be sent."""
    frame = thumbnail_frame(slide, mpp_l0)
    mask = np.ones((frame.height_m, frame.width_m), dtype=np.bool_)
    return TissueCells(np.ones((grid.height_c, grid.width_c), dtype=np.bool_), TissueMap(mask, (frame.mpp_x, frame.mpp_y), "every tile"))


def tissue_of_file(path: Path, slide: Slide, mpp_l0: tuple[float, float], frame: Frame, grid: TileGrid) -> TissueCells:
    """What a mask image or polygons say.

    Raises:
        RegionError: it cannot be read, or does not fit the slide.
    """
    if path.name.lower().endswith(_POLYGONS):
        return _of_polygons(path, slide, mpp_l0, frame, grid)
    mask = read_mask_image(path)
    _check_aspect(path, mask.shape, (slide.height_l0, slide.width_l0))
    mpp = (frame.mpp_x * frame.width_m / mask.shape[1], frame.mpp_y * frame.height_m / mask.shape[0])
    return TissueCells(_spread_any(mask, grid, (frame.height_m, frame.width_m)), TissueMap(mask, mpp, path.name))


def file_of_slide(given: Path, slide: Path) -> Path:
    """The file itself; of a folder, the one that is named after the slide.

    Raises:
        RegionError: the folder has none, or several.
    """
    if not given.is_dir():
        return given
    endings = [*_IMAGES, *_POLYGONS, ".tissue.png"]
    found = [path for ending in endings if (path := given / f"{slide.stem}{ending}").is_file()]
    if len(found) != 1:
        told = "none" if not found else ", ".join(path.name for path in found)
        raise RegionError(f"{given}: expected one file {slide.stem}.png or {slide.stem}.geojson in this folder, found {told}")
    return found[0]


def read_mask_image(path: Path) -> npt.NDArray[np.bool_]:
    """An image of any size, bool (H, W): where any channel but an alpha channel is not 0.

    Raises:
        RegionError: no such file, no image, or nothing in it.
    """
    try:
        with Image.open(path) as image:
            opaque = image.convert(image.mode.removesuffix("A")) if image.mode in ("RGBA", "LA") else image
            pixels = np.asarray(opaque)
    except FileNotFoundError:
        raise RegionError(f"{path}: expected a mask image or GeoJSON, found no such file: check the path") from None
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise RegionError(f"{path}: expected a mask image (PNG) or GeoJSON, cannot read it: {error}") from error
    mask: npt.NDArray[np.bool_] = np.asarray(np.atleast_3d(pixels).any(axis=2))
    if not mask.any():
        raise RegionError(f"{path}: expected a mask with tissue (pixels that are not 0), found none: --no-tissue sends every tile")
    return mask


def _of_polygons(path: Path, slide: Slide, mpp_l0: tuple[float, float], frame: Frame, grid: TileGrid) -> TissueCells:
    region = read_region(path, place_frame(slide, frame), (frame.height_m, frame.width_m))
    coarse = thumbnail_frame(slide, mpp_l0)
    ratio = np.divide(place_frame(slide, frame).scale_l0, place_frame(slide, coarse).scale_l0)
    small = Region(shapely.transform(region.polygons_m, lambda points: points * ratio), (coarse.height_m, coarse.width_m))
    shown = TissueMap(small.strip(0, coarse.height_m), (coarse.mpp_x, coarse.mpp_y), path.name)
    return TissueCells(region.cells(grid), shown)


def _check_aspect(path: Path, mask: tuple[int, ...], slide: tuple[int, int]) -> None:
    height, width = mask
    expected = slide[1] / slide[0]
    # Either side may have been rounded.
    tolerance = max(ASPECT_WITHIN, 1.5 / height, 1.5 / width)
    if abs(width / height / expected - 1) > tolerance:
        raise RegionError(
            f"{path}: expected a mask of the whole slide, its sides in the slide's ratio {slide[1]}:{slide[0]} = {expected:.3f}, "
            f"got {width}×{height} = {width / height:.3f}: export it from the whole slide, not from a part"
        )


def _spread_any(mask: npt.NDArray[np.bool_], grid: TileGrid, shape_m: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which cells have any pixel of the mask over them, be it larger or smaller than a cell."""
    for axis, (cells, side_m) in enumerate(zip((grid.height_c, grid.width_c), shape_m, strict=True)):
        side = mask.shape[axis]
        per_cell = grid.cell_px / side_m * side
        start = np.minimum(np.floor(np.arange(cells) * per_cell + 1e-9).astype(np.int64), side - 1)
        stop = np.clip(np.ceil(np.arange(1, cells + 1) * per_cell - 1e-9).astype(np.int64), start + 1, side)
        counts = np.cumsum(np.insert(mask, 0, False, axis=axis), axis=axis, dtype=np.int32)
        mask = np.take(counts, stop, axis=axis) > np.take(counts, start, axis=axis)
    return mask
