"""Images without labels for pre-training: random crops of image files, and tissue tiles cut from whole slides. No label is ever read.

Frames: `l0` = pixels of a slide's level 0.
"""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .datasets.image_file import read_rgb
from .datasets.placement import scale_rgb
from .errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
SLIDE_SUFFIXES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".svslide", ".vms", ".vmu", ".tif", ".tiff"})
# HSV saturation between clean glass (below 0.04) and stained tissue (above 0.12), the bounds that the slide client keeps its threshold in.
TISSUE_SATURATION = 0.08
_CELLS = 16  # per side of a tile, on which saturation is looked at: their mean color is free of the noise of single pixels
_MPP_RANGE = (0.05, 20.0)  # what a slide can have; outside, its resolution tag is wrong
_PATCH_PLACE = re.compile(r"_x\d+_y\d+$")  # how `histoserve patches` names a patch after its image


@dataclass(frozen=True)
class Found:
    """What lies below the folders.

    Attributes:
        excluded: files left out because their names are on the list.
        other_files: how many files of each suffix are neither.
    """

    images: list[Path]
    slides: list[Path]
    excluded: list[Path]
    other_files: dict[str, int]


@dataclass(frozen=True)
class SlideTile:
    """A tile of a slide: its top left and its sides, in the frame `l0`."""

    slide: Path
    x_l0: int
    y_l0: int
    width_l0: float
    height_l0: float


class UnlabeledDataset(Dataset[Tensor]):
    """uint8 (3, tile_px, tile_px): a random crop of each image, reflect-padded where the image is smaller, then each tile of the slides.

    Args:
        scale: images are scaled by it before the crop: their micrometers per pixel over those of the tile.
    """

    def __init__(self, images: Sequence[Path], tile_px: int, scale: float = 1.0, tiles: Sequence[SlideTile] = ()) -> None:
        self.images = list(images)
        self.tiles = list(tiles)
        self.tile_px = tile_px
        self.scale = scale

    def __len__(self) -> int:
        return len(self.images) + len(self.tiles)

    def __getitem__(self, index: int) -> Tensor:
        """One crop or tile.

        Raises:
            DataError: the file cannot be read.
        """
        is_image = index < len(self.images)
        rgb = self._crop(self.images[index]) if is_image else read_tile(self.tiles[index - len(self.images)], self.tile_px)
        return torch.from_numpy(rgb.copy()).permute(2, 0, 1)

    def _crop(self, path: Path) -> npt.NDArray[np.uint8]:
        rgb, side = read_rgb(path), max(1, round(self.tile_px / self.scale))
        missing = [max(0, side - length) for length in rgb.shape[:2]]
        if any(missing):
            rgb = np.pad(rgb, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
        # torch's generator, which the trainer seeds, also in the workers
        y, x = (int(torch.randint(length - side + 1, (1,))) for length in rgb.shape[:2])
        return scale_rgb(rgb[y : y + side, x : x + side], (self.tile_px, self.tile_px))


def find_unlabeled(data: Sequence[Path], slides: Sequence[Path], exclude: Path | None) -> Found:
    """Every image below `data` and every slide below `slides`, by name.

    Args:
        slides: folders, or slides themselves.
        exclude: a text file with one name of an image or slide per line, with or without its suffix: evaluation images, which must never be
            seen (METHODS). Patches that `histoserve patches` cut from an image go with it.

    Raises:
        DataError: no such folder, a link to a folder, a file that is no RGB image, nothing to read, or an excluded name that is nowhere.
    """
    left_out = _read_names(exclude) if exclude is not None else set()
    files, slide_files = [*_walk(data)], [*_walk(slides)]
    unknown = left_out.difference(*map(_names, [*files, *slide_files]))
    if unknown:
        raise DataError(f"{exclude}: expected names of images below the folders, found none called {min(unknown)!r}")
    excluded = [path for path in [*files, *slide_files] if _names(path) & left_out]
    images, others = _sort_out(files, IMAGE_SUFFIXES, left_out)
    whole, other_slides = _sort_out(slide_files, SLIDE_SUFFIXES, left_out)
    if misplaced := next((path for path in others if path.suffix.lower() in SLIDE_SUFFIXES), None):
        raise DataError(f"{misplaced}: expected an image, found a whole slide: give its folder as --slides")
    for path in images:
        _check_image(path)
    if not images and not whole:
        raise DataError(f"{', '.join(map(str, [*data, *slides])) or 'no folder'}: expected images or slides, found none")
    return Found(images, whole, excluded, dict(Counter(path.suffix.lower() or path.name for path in [*others, *other_slides])))


def cut_tiles(slide: Path, tile_px: int, mpp: float, slide_mpp: float | None, min_tissue: float) -> tuple[list[SlideTile], int]:
    """The tiles of a slide that hold tissue, side by side from its top left, and how many hold too little.

    A rest at the right and bottom that is shorter than a tile is not read.

    Args:
        mpp: micrometers per pixel of the tiles.
        slide_mpp: of level 0, where the file does not say or says wrong.
        min_tissue: least share of a tile that is saturated, 0…1. Colored marks of a pen are, too.

    Raises:
        DataError: no slide, a damaged one, one without a scale or coarser than `mpp`, or without tissue.
    """
    handle = _open(slide, os.getpid())
    sides_l0 = [tile_px * mpp / own for own in _slide_mpp(slide, handle, mpp, slide_mpp)]
    columns, rows = (int(length / side) for length, side in zip(handle.dimensions, sides_l0, strict=True))
    if not columns or not rows:
        raise DataError(f"{slide}: expected at least one tile of {sides_l0[0]:.0f} px, got a slide of {handle.dimensions}: --exclude it")
    tiles = []
    for row in range(rows):
        shares = _tissue_shares(slide, row, columns, sides_l0)
        kept = [(round(column * sides_l0[0]), round(row * sides_l0[1])) for column in range(columns) if shares[column] >= min_tissue]
        tiles += [SlideTile(slide, x_l0, y_l0, *sides_l0) for x_l0, y_l0 in kept]
    if not tiles:
        raise DataError(f"{slide}: expected tissue, found no tile with a share of {min_tissue}: --exclude it, or lower --min-tissue")
    return tiles, rows * columns - len(tiles)


def read_tile(tile: SlideTile, tile_px: int) -> npt.NDArray[np.uint8]:
    """uint8 RGB (tile_px, tile_px, 3), from the coarsest level that is fine enough.

    Raises:
        DataError: the slide cannot be read there.
    """
    rgb = _read(tile.slide, tile.x_l0, tile.y_l0, (tile.width_l0, tile.height_l0), min(tile.width_l0, tile.height_l0) / tile_px)
    return scale_rgb(rgb, (tile_px, tile_px))


def _tissue_shares(slide: Path, row: int, columns: int, sides_l0: Sequence[float]) -> npt.NDArray[np.float64]:
    """Share of saturated cells of each tile in a row of them, (columns,)."""
    strip = _read(slide, 0, round(row * sides_l0[1]), (columns * sides_l0[0], sides_l0[1]), min(sides_l0) / _CELLS)
    small = Image.fromarray(strip).resize((columns * _CELLS, _CELLS), Image.Resampling.BOX)
    rgb = np.asarray(small, dtype=np.float32)
    high, low = rgb.max(axis=2), rgb.min(axis=2)
    saturated = (high - low) / np.maximum(high, 1) > TISSUE_SATURATION
    shares: npt.NDArray[np.float64] = saturated.reshape(_CELLS, columns, _CELLS).mean(axis=(0, 2))
    return shares


def _read(slide: Path, x_l0: int, y_l0: int, size_l0: tuple[float, float], downsample: float) -> npt.NDArray[np.uint8]:
    """A rectangle at the level nearest above the resolution asked for; pixels that the file lacks are white."""
    import openslide

    handle = _open(slide, os.getpid())
    level = handle.get_best_level_for_downsample(downsample * 1.01)  # 1 %: a level of 4.0002 is one of 4
    size = [max(1, round(side / handle.level_downsamples[level])) for side in size_l0]
    try:
        region = handle.read_region((x_l0, y_l0), level, size)
    except openslide.OpenSlideError as error:
        raise DataError(f"{slide}: damaged at ({x_l0}, {y_l0}): {error}: copy it again or --exclude it") from error
    white = Image.new("RGBA", region.size, (255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(white, region).convert("RGB"), dtype=np.uint8)


@functools.lru_cache(maxsize=8)
def _open(slide: Path, process: int) -> Any:
    """An open slide of this process: OpenSlide's handles do not survive a fork into the workers, hence the process id in the key."""
    try:
        import openslide  # here alone, so that pre-training on image files needs no OpenSlide
    except ModuleNotFoundError as error:
        raise DataError("--slides: expected the package openslide-python, found none: pip install 'histoserve[client]'") from error
    try:
        return openslide.OpenSlide(str(slide))
    except openslide.OpenSlideError as error:  # also of formats it does not know
        raise DataError(f"{slide}: expected a whole slide, OpenSlide cannot read it ({error}): --exclude it") from error


def _slide_mpp(slide: Path, handle: Any, mpp: float, given: float | None) -> tuple[float, float]:
    """Micrometers per level-0 pixel, (x, y)."""
    try:
        own_x, own_y = (given or float(handle.properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        raise DataError(f"{slide}: expected a slide that says its micrometers per pixel, it does not: give --slide-mpp") from None
    if not all(_MPP_RANGE[0] <= own <= _MPP_RANGE[1] for own in (own_x, own_y)):
        raise DataError(f"{slide}: expected {_MPP_RANGE[0]}…{_MPP_RANGE[1]} µm per pixel, the file says {own_x}: give --slide-mpp")
    if mpp < 0.99 * min(own_x, own_y):
        raise DataError(
            f"{slide}: expected a slide of at most {mpp} µm per pixel, got a coarser one of {own_x:.3f}: raise --mpp or --exclude it"
        )
    return own_x, own_y


def _walk(places: Iterable[Path]) -> Iterator[Path]:
    """Every file below the folders once, in order."""
    seen: set[Path] = set()
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: expected a folder of images or slides, found none")
        files = [place] if place.is_file() else sorted(_files(place))
        found = [path for path in files if path not in seen]
        seen.update(found)
        yield from found


def _files(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: expected a folder that can be read: {error.strerror}") from error

    for root, folders, names in os.walk(folder, onerror=fail):
        for name in folders:
            if (Path(root) / name).is_symlink():
                raise DataError(f"{Path(root) / name}: expected a folder, found a link, which is not followed: give its target as --data")
        yield from (Path(root) / name for name in names)


def _sort_out(files: Sequence[Path], suffixes: frozenset[str], left_out: set[str]) -> tuple[list[Path], list[Path]]:
    kept = [path for path in files if not _names(path) & left_out]
    wanted = [path for path in kept if path.suffix.lower() in suffixes]
    return wanted, [path for path in kept if path.suffix.lower() not in suffixes]


def _names(path: Path) -> set[str]:
    """What a list may call this file by: its name, without its suffix, and the image that it was cut from."""
    return {path.name, path.stem, _PATCH_PLACE.sub("", path.stem)}


def _check_image(path: Path) -> None:
    """RGB by its header: a label image or a gray one in the folder is a mistake, and better found before the training than in it."""
    try:
        with Image.open(path) as image:
            mode = image.mode
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: expected an image, found one of a slide's size ({error}): give its folder as --slides") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: expected a readable image: {error}: copy it again, or --exclude it") from error
    if mode != "RGB":
        raise DataError(f"{path}: expected an RGB image, got mode {mode} (a mask?): give a folder without it, convert it, or --exclude it")


def _read_names(path: Path) -> set[str]:
    try:
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text file of image names, cannot read it: {error}") from error
