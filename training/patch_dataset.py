"""Patches with image-level labels as tensors. Reads what `training.patches` lists; opens a mask only where it is handed one as a target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

from serving.background import background_mask
from serving.contract import TissueTask

from .errors import DataError


@dataclass(frozen=True)
class PatchSample:
    """One training patch: what both stages may look at.

    Attributes:
        labels: image-level, 0 or 1 per class.
        target: pseudo-mask for stage 2, or None in stage 1. Never the data set's own mask.
    """

    image: Path
    labels: tuple[int, ...]
    target: Path | None = None


@dataclass(frozen=True)
class Augmentation:
    """Flips and right-angle turns, and a gain per channel within 1 ± `color_jitter` (thesis appendix A: geometry and color)."""

    flips: bool = True
    color_jitter: float = 0.1


class PatchDataset(Dataset[dict[str, Tensor]]):
    """image uint8 (3, H, W), background bool (H, W), labels float (C,), and target int64 (H, W) where there is one."""

    def __init__(self, samples: Sequence[PatchSample], task: TissueTask, augmentation: Augmentation | None, seed: int) -> None:
        if not samples:
            raise DataError("training set: expected at least one patch, got none")
        self.samples = list(samples)
        self.task = task
        self.augmentation = augmentation
        self.random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self.samples[index]
        rgb = read_rgb(sample.image, self.task.tile_px)
        # The color rule sees the patch as it is, before any gain.
        layers = [rgb, self._background(rgb)[..., None]]
        if sample.target is not None:
            layers.append(read_labels(sample.target, self.task.tile_px, len(self.task.classes))[..., None])
        stacked = self._augment(np.concatenate(layers, axis=2))
        item = {
            "image": torch.from_numpy(self._jitter(stacked[..., :3])).permute(2, 0, 1),
            "background": torch.from_numpy(stacked[..., 3].astype(bool)),
            "labels": torch.tensor(sample.labels, dtype=torch.float32),
        }
        if sample.target is not None:
            item["target"] = torch.from_numpy(stacked[..., 4].astype(np.int64))
        return item

    def _background(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        rule = self.task.background
        if rule is None:
            return np.zeros(rgb.shape[:2], dtype=np.uint8)
        return background_mask(rgb, rule.gray_above, rule.min_size_px).astype(np.uint8)

    def _augment(self, stacked: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if self.augmentation is None or not self.augmentation.flips:
            return stacked
        turned = np.rot90(stacked, int(self.random.integers(4)))
        return np.ascontiguousarray(turned[:, ::-1] if self.random.integers(2) else turned)

    def _jitter(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        if self.augmentation is None or self.augmentation.color_jitter == 0:
            return np.ascontiguousarray(rgb)
        spread = self.augmentation.color_jitter
        gain = self.random.uniform(1 - spread, 1 + spread, size=3).astype(np.float32)
        jittered: npt.NDArray[np.uint8] = np.clip(rgb * gain, 0, 255).astype(np.uint8)
        return jittered


def read_rgb(path: Path, tile_px: int) -> npt.NDArray[np.uint8]:
    """uint8 RGB (tile_px, tile_px, 3).

    Raises:
        DataError: the file cannot be read or has another size.
    """
    return _checked(path, _open(path).convert("RGB"), tile_px)


def read_labels(path: Path, tile_px: int, num_classes: int) -> npt.NDArray[np.uint8]:
    """A label image of 0…C, uint8 (tile_px, tile_px).

    Raises:
        DataError: the file cannot be read, has another size, or holds an index above C.
    """
    labels = _checked(path, _open(path), tile_px)
    if labels.ndim != 2 or labels.max() > num_classes:
        raise DataError(
            f"{path}: expected a single-channel label image of 0…{num_classes}, got shape {labels.shape}, maximum {labels.max()}"
        )
    return labels


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: expected an image, found no file") from error
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: expected a readable image: {error}") from error
    return image


def _checked(path: Path, image: Image.Image, tile_px: int) -> npt.NDArray[np.uint8]:
    if image.size != (tile_px, tile_px):
        raise DataError(f"{path}: expected {tile_px}×{tile_px} px, the task's tile, got {image.width}×{image.height}")
    return np.asarray(image, dtype=np.uint8)
