"""Patches with image-level labels as tensors of the tile's size. Reads what a reader listed; opens a mask only where it is handed one as a target.

A patch that is not of the tile's size: `patch_px` brings it to the tile's scale; shorter than the tile, it is reflect-padded and the padding
is no part of any target; longer, a tile is cut out of it, at random in training and from the middle without augmentation. It keeps its image-level
label then, which holds for most of what is cut: twice the tile is the limit.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from serving.background import background_mask
from serving.contract import TissueTask

from .datasets.image_file import read_indices, read_rgb
from .datasets.placement import IGNORE_LABEL, Shape, inside, place, scale_labels, scale_rgb, scaled_shape, tile_labels, tile_rgb
from .errors import DataError, RecipeError


@dataclass(frozen=True)
class PatchSample:
    """One training patch: what both stages may look at.

    Attributes:
        labels: image-level, 0 or 1 per class.
        target: label image for stage 2, 0…C or `IGNORE_LABEL`, or None in stage 1: of the image's size, or of the tile's as pseudo-masks are
            (then the middle of a longer image is its tile). Never the data set's own mask, but for the supervised upper bound.
        confidence: of the target, per class (eq. 4.10).
        more_targets: further label images of the target's size, where there are pseudo-masks of several levels.
    """

    image: Path
    labels: tuple[int, ...]
    target: Path | None = None
    confidence: Path | None = None
    more_targets: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Augmentation:
    """Flips and right-angle turns, and a gain per channel within 1 ± `color_jitter` (thesis appendix A: geometry and color)."""

    flips: bool = True
    color_jitter: float = 0.1


class PatchDataset(Dataset[dict[str, Tensor]]):
    """Items are of the tile's size, H = W = `task.tile_px`.

    image uint8 (3, H, W), background bool (H, W) by the task's color rule, valid bool (H, W), False on padding, labels float (C,), and where the
    sample has them target int64 (H, W) of 0…C or `IGNORE_LABEL`, confidence float (C, H, W), more_targets int64 (N, H, W).

    Args:
        augmentation: None leaves every patch as it is.
        patch_px: side of the patches that fill a tile, where they are upsampled to it: 112 for a tile of 224. None: pixels are not scaled.
    """

    def __init__(
        self, samples: Sequence[PatchSample], task: TissueTask, augmentation: Augmentation | None, seed: int, patch_px: int | None = None
    ) -> None:
        if not samples:
            raise DataError("training set: expected at least one patch, got none")
        if patch_px is not None and patch_px < 1:
            raise RecipeError(f"patch_px: expected at least 1 px, got {patch_px}")
        self.samples = list(samples)
        self.task = task
        self.augmentation = augmentation
        self.seed = seed
        self.patch_px = patch_px or task.tile_px
        self._random = np.random.default_rng(seed)
        self._worker_seed: int | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """One item.

        Raises:
            DataError: a file cannot be read, is of no size that fits the tile, or holds a label above C.
        """
        sample = self.samples[index]
        random = self._generator()
        rgb, targets, valid = self._tile(sample, random)
        # The color rule sees the patch as it is, before any gain.
        layers = [rgb, self._background(rgb)[..., None], valid[..., None], *(target[..., None] for target in targets)]
        if sample.confidence is not None:
            layers.append(self._read_confidence(sample.confidence))
        stacked = self._augment(np.concatenate(layers, axis=2), random)
        item = {
            "image": torch.from_numpy(self._jitter(stacked[..., :3], random)).permute(2, 0, 1),
            "background": torch.from_numpy(stacked[..., 3].astype(bool)),
            "valid": torch.from_numpy(stacked[..., 4].astype(bool)),
            "labels": torch.tensor(sample.labels, dtype=torch.float32),
        }
        first, behind = 5, 5 + len(targets)
        turned = torch.from_numpy(stacked[..., first:behind].astype(np.int64)).permute(2, 0, 1)
        if len(targets):
            item["target"] = turned[0]
        if len(targets) > 1:
            item["more_targets"] = turned[1:]
        if sample.confidence is not None:
            item["confidence"] = torch.from_numpy(stacked[..., behind:].astype(np.float32) / 255).permute(2, 0, 1)
        return item

    def _tile(
        self, sample: PatchSample, random: np.random.Generator
    ) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.uint8]], npt.NDArray[np.uint8]]:
        """RGB, the targets that there are, and 1 where the tile shows the image; all on the tile."""
        tile_px = self.task.tile_px
        rgb = read_rgb(sample.image)
        shape_i = (rgb.shape[0], rgb.shape[1])
        shape_s = scaled_shape(shape_i, self.patch_px, tile_px)
        self._check_size(sample.image, shape_i, shape_s)
        paths = () if sample.target is None else (sample.target, *sample.more_targets)
        labels = [self._read_target(path, shape_i) for path in paths]
        is_tile = [each.shape != shape_i for each in labels]
        if any(is_tile) and not all(is_tile):
            raise DataError(f"{sample.image}: expected its targets to be all of the image's size or all of the tile's, got both")
        placement = place(shape_s, tile_px, None if self.augmentation is None or any(is_tile) else random)
        valid = inside(placement)
        targets = [
            np.where(valid, each, np.uint8(IGNORE_LABEL)) if any(is_tile) else tile_labels(scale_labels(each, shape_s), placement)
            for each in labels
        ]
        return tile_rgb(scale_rgb(rgb, shape_s), placement), targets, valid.astype(np.uint8)

    def _read_confidence(self, path: Path) -> npt.NDArray[np.uint8]:
        """Eq. 4.10 as pseudo-masks carry it, (C, h, w) on the CAM grid, 255 = certain → (tile_px, tile_px, C)."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # numpy leaves a damaged file open
                levels = archive["confidence"]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path}: expected the confidence of a pseudo-mask, cannot read it ({error}): train stage 1 again") from error
        tile_px, num_classes = self.task.tile_px, len(self.task.classes)
        if levels.ndim != 3 or len(levels) != num_classes or any(side == 0 or tile_px % side for side in levels.shape[1:]):
            raise DataError(
                f"{path}: expected the confidence of {num_classes} classes on a grid that divides {tile_px} px, got {levels.shape}: "
                "train stage 1 again"
            )
        cell_px = tile_px // levels.shape[1]
        spread: npt.NDArray[np.uint8] = levels.repeat(cell_px, axis=1).repeat(cell_px, axis=2).transpose(1, 2, 0)
        return spread

    def _check_size(self, path: Path, shape_i: Shape, shape_s: Shape) -> None:
        tile_px = self.task.tile_px
        if 2 * min(shape_s) <= tile_px or max(shape_s) > 2 * tile_px:
            least_px, most_px = tile_px // 2 + 1, 2 * tile_px
            scaled = "" if shape_s == shape_i else f", {shape_s[1]}×{shape_s[0]} at the tile's scale"
            raise DataError(
                f"{path}: expected sides of {least_px}…{most_px} px for a tile of {tile_px}, got {shape_i[1]}×{shape_i[0]}{scaled}: "
                "cut it with `histoserve patches`, or give the patch_px that should fill a tile"
            )

    def _read_target(self, path: Path, shape_i: Shape) -> npt.NDArray[np.uint8]:
        labels, tile_px, num_classes = read_indices(path), self.task.tile_px, len(self.task.classes)
        height, width = labels.shape
        if labels.shape not in (shape_i, (tile_px, tile_px)):
            raise DataError(
                f"{path}: expected {shape_i[1]}×{shape_i[0]} px, the image's size, or {tile_px}×{tile_px}, the tile's, got {width}×{height}"
            )
        if labels.shape == shape_i == (tile_px, tile_px) != (self.patch_px, self.patch_px):
            raise DataError(
                f"{path}: expected patches of {self.patch_px} px that are scaled to {tile_px}, got {width}×{height}: "
                "whether this target is on the image or on the tile cannot be told"
            )
        classes = labels[labels != IGNORE_LABEL]
        if classes.size and classes.max() > num_classes:
            raise DataError(f"{path}: expected a label image of 0…{num_classes} or {IGNORE_LABEL} (ignored), got {classes.max()}")
        return labels

    def _background(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        rule = self.task.background
        if rule is None:
            return np.zeros(rgb.shape[:2], dtype=np.uint8)
        return background_mask(rgb, rule.gray_above, rule.min_size_px).astype(np.uint8)

    def _augment(self, stacked: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
        if self.augmentation is None or not self.augmentation.flips:
            return stacked
        turned = np.rot90(stacked, int(random.integers(4)))
        return np.ascontiguousarray(turned[:, ::-1] if random.integers(2) else turned)

    def _jitter(self, rgb: npt.NDArray[np.uint8], random: np.random.Generator) -> npt.NDArray[np.uint8]:
        if self.augmentation is None or self.augmentation.color_jitter == 0:
            return np.ascontiguousarray(rgb)
        spread = self.augmentation.color_jitter
        gain = random.uniform(1 - spread, 1 + spread, size=3).astype(np.float32)
        jittered: npt.NDArray[np.uint8] = np.clip(rgb * gain, 0, 255).astype(np.uint8)
        return jittered

    def _generator(self) -> np.random.Generator:
        """The random numbers of this process: workers are copies of one data set and would all draw the same ones."""
        worker = get_worker_info()
        if worker is not None and worker.seed != self._worker_seed:
            self._worker_seed = worker.seed
            self._random = np.random.default_rng((self.seed, worker.seed))
        return self._random
