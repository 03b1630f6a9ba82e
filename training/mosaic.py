"""Synthesized images with masks for a preliminary segmenter (PistoSeg, Fang et al. 2023, eq. 1), from patches whose image-level label has one class.

Knows images, classes and the task's background rule, no network and no file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from serving.background import background_mask
from serving.contract import TissueTask

from .errors import DataError, RecipeError

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class MosaicOptions:
    """How images are synthesized. Where the paper is silent, the published code's value is named.

    Attributes:
        grid: (n_h, n_w) pieces of a spliced image; the paper's (7, 7) for WSSS4LUAD, (2, 2) for BCSS.
        piece_px: H_p = W_p, side of a piece; grid times piece_px is the tile: 32 and 112 for a tile of 224.
        count: images to write.
        alpha: least share of each side that lies before the anchor.
        beta: greatest share.
        rotation_deg: a spliced image is turned by an angle within ± this (the paper names none; code: 45).
        scale: range of the factor by which it is enlarged (the paper names none; code: 0.8…1.2).
        flip: mirror it at random in both directions (code; not in the paper).
        balance: 1 = every class equally often (the paper's resampling), 0 = each single-label image equally often (code); between, a mix.
        background_below: a piece with a greater share of background is drawn again, from the same class (the paper names none; the code means
            0.8 and, by a slip, rejects from 0.27 on). 1 = none is.
        max_tries: draws of a piece before giving up.
        seed: of all draws; image k depends on the seed and on k alone.
    """

    grid: tuple[int, int] = (7, 7)
    piece_px: int = 32
    count: int = 20_000
    alpha: float = 0.2
    beta: float = 0.8
    rotation_deg: float = 45.0
    scale: tuple[float, float] = (0.8, 1.2)
    flip: bool = False
    balance: float = 1.0
    background_below: float = 0.8
    max_tries: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if min(*self.grid, self.piece_px, self.count, self.max_tries) < 1:
            raise RecipeError(f"mosaic: expected grid, piece_px, count and max_tries of at least 1, got {self}")
        if not 0 < self.alpha <= self.beta < 1:
            raise RecipeError(f"mosaic: expected 0 < alpha ≤ beta < 1, got {self.alpha} and {self.beta}: the paper's are 0.2 and 0.8")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise RecipeError(f"mosaic: expected scale as an ascending range above 0, got {self.scale}: the published code's is (0.8, 1.2)")
        if not 0 <= self.balance <= 1 or not 0 <= self.background_below <= 1:
            raise RecipeError(f"mosaic: expected balance and background_below within 0…1, got {self.balance} and {self.background_below}")


class Images(Protocol):
    """RGB images by number: a list, or what reads them when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Bytes: ...


def draw_mosaic(
    images_by_class: Sequence[Images], task: TissueTask, options: MosaicOptions, random: np.random.Generator
) -> tuple[Bytes, Bytes]:
    """One synthesized image and its labels (eq. 1): uint8 (H, W, 3), and uint8 (H, W) of 0…C, H = W = `task.tile_px`.

    [[I₁″, I₃″], [I₂″, I₄″]] around the anchor (H_A, W_A): each I″ is a random cut of a spliced image, turned and enlarged at random, of pieces
    that are single-label images or random cuts of them. What a turn exposes is the image's reflection. A pixel has the class of its piece,
    or 0 where the task's rule says background.

    Args:
        images_by_class: the images of class 1 first, C in all.

    Raises:
        RecipeError: the grid does not fill the tile, or no whole pixel is between alpha and beta.
        DataError: a class without images, or whose pieces are background time and again.
    """
    tile_px = mosaic_px(task, options)
    shares = class_shares([len(images) for images in images_by_class], task, options.balance)
    first, last = math.ceil(options.alpha * tile_px), math.floor(options.beta * tile_px)
    if first > last:
        raise RecipeError(f"mosaic: expected an anchor between {options.alpha} and {options.beta} of {tile_px} px, found none")
    anchor_y, anchor_x = (int(random.integers(first, last + 1)) for _ in range(2))
    rgb, labels = np.empty((tile_px, tile_px, 3), np.uint8), np.empty((tile_px, tile_px), np.uint8)
    for columns in (slice(0, anchor_x), slice(anchor_x, tile_px)):
        for rows in (slice(0, anchor_y), slice(anchor_y, tile_px)):
            spliced = _splice(images_by_class, shares, task, options, random)
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            rgb[rows, columns], labels[rows, columns] = _turned_cut(*spliced, shape, options, random)
    if task.background is not None:
        labels[background_mask(rgb, task.background.gray_above, task.background.min_size_px)] = 0
    return rgb, labels


def mosaic_px(task: TissueTask, options: MosaicOptions) -> int:
    """Side of a mosaic: the tile.

    Raises:
        RecipeError: the grid does not fill it.
    """
    sides = tuple(count * options.piece_px for count in options.grid)
    if sides != (task.tile_px, task.tile_px):
        raise RecipeError(
            f"mosaic: expected grid × piece_px to be the tile of {task.tile_px} px of task {task.name!r}, got "
            f"{options.grid[0]}×{options.grid[1]} pieces of {options.piece_px} px = {sides[0]}×{sides[1]}: change the grid or piece_px"
        )
    return task.tile_px


def class_shares(counts: Sequence[int], task: TissueTask, balance: float) -> npt.NDArray[np.float64]:
    """How likely a piece is of each class, (C,)."""
    if len(counts) != len(task.classes):
        raise DataError(f"mosaic: expected the images of {len(task.classes)} classes of task {task.name!r}, got {len(counts)}")
    missing = [name for name, count in zip(task.class_names, counts, strict=True) if count == 0]
    if missing:
        raise DataError(
            f"mosaic: expected at least one image with a single class on its label for each class, found none of {', '.join(missing)}: "
            "such a class cannot be learned from synthesized images; add patches of it alone, or take a task without it"
        )
    by_image = np.asarray(counts, np.float64) / sum(counts)
    return (1 - balance) * by_image + balance / len(counts)


def _splice(
    images_by_class: Sequence[Images],
    shares: npt.NDArray[np.float64],
    task: TissueTask,
    options: MosaicOptions,
    random: np.random.Generator,
) -> tuple[Bytes, Bytes]:
    """I′ of the paper: n_h × n_w pieces in raster order, and the class of each of its pixels."""
    classes = random.choice(len(shares), size=options.grid, p=shares)
    rows = [np.concatenate([_piece(images_by_class[of], task, int(of), options, random) for of in row], axis=1) for row in classes]
    side = np.ones((options.piece_px, options.piece_px), np.uint8)
    return np.concatenate(rows), np.kron((classes + 1).astype(np.uint8), side)


def _piece(images: Images, task: TissueTask, of_class: int, options: MosaicOptions, random: np.random.Generator) -> Bytes:
    for _ in range(options.max_tries):
        piece = _cut(images[int(random.integers(len(images)))], options.piece_px, random)
        if _background_share(piece, task) <= options.background_below:
            return piece
    raise DataError(
        f"mosaic: expected a piece of {task.class_names[of_class]!r} with at most {options.background_below:.0%} of background, got none in "
        f"{options.max_tries} draws from {len(images)} images: raise background_below, or check the task's background rule on this class"
    )


def _cut(rgb: Bytes, piece_px: int, random: np.random.Generator) -> Bytes:
    """A square at random; a shorter side is continued by its reflection, tissue of the same class."""
    y, x = (int(random.integers(max(side - piece_px, 0) + 1)) for side in rgb.shape[:2])
    piece = rgb[y : y + piece_px, x : x + piece_px]
    below, right = piece_px - piece.shape[0], piece_px - piece.shape[1]
    return np.pad(piece, ((0, below), (0, right), (0, 0)), mode="symmetric") if below or right else piece


def _background_share(rgb: Bytes, task: TissueTask) -> float:
    rule = task.background
    return 0.0 if rule is None else float(background_mask(rgb, rule.gray_above, rule.min_size_px).mean())


def _turned_cut(
    rgb: Bytes, labels: Bytes, shape: tuple[int, int], options: MosaicOptions, random: np.random.Generator
) -> tuple[Bytes, Bytes]:
    """I″: a cut at random of the spliced image after it was turned and enlarged about its center; both in one resampling."""
    angle, factor = math.radians(random.uniform(-options.rotation_deg, options.rotation_deg)), random.uniform(*options.scale)
    signs = 1 - 2 * random.integers(2, size=2) if options.flip else np.ones(2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    to_source = signs[:, None] * turn / factor
    start = np.array([random.integers(whole - part + 1) for whole, part in zip(labels.shape, shape, strict=True)])
    center = (np.array(labels.shape) - 1) / 2
    where: dict[str, Any] = {"offset": center + to_source @ (start - center), "output_shape": shape, "mode": "reflect"}
    channels = [ndimage.affine_transform(rgb[..., channel], to_source, order=1, **where) for channel in range(3)]
    return np.stack(channels, axis=2), ndimage.affine_transform(labels, to_source, order=0, **where)
