"""Images without labels for pre-training: every image of a folder, a crop of the tile's size at a time. No label is ever read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from .datasets.image_file import read_rgb
from .errors import DataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})


class UnlabeledDataset(Dataset[Tensor]):
    """uint8 (3, tile_px, tile_px): a random crop of an image, reflect-padded where it is smaller."""

    def __init__(self, images: Sequence[Path], tile_px: int) -> None:
        self.images = list(images)
        self.tile_px = tile_px

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        rgb = read_rgb(self.images[index])
        missing = [max(0, self.tile_px - side) for side in rgb.shape[:2]]
        if any(missing):
            rgb = np.pad(rgb, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="symmetric")
        # torch's generator, which Lightning seeds, also in the workers
        y, x = (int(torch.randint(side - self.tile_px + 1, (1,))) for side in rgb.shape[:2])
        crop = rgb[y : y + self.tile_px, x : x + self.tile_px]
        return torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)


def list_unlabeled(folders: Sequence[Path], exclude: Path | None) -> list[Path]:
    """Every image below the folders, by name.

    Args:
        exclude: a text file with one image name (stem) per line: evaluation images, which must never be seen (METHODS).

    Raises:
        DataError: no such folder or file, no image, or a name in `exclude` that is nowhere.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: expected a folder of images, found none")
        found += sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    left_out = _read_names(exclude) if exclude is not None else set()
    unknown = left_out - {path.stem for path in found}
    if unknown:
        raise DataError(f"{exclude}: expected names of images below the folders, found none called {min(unknown)!r}")
    images = [path for path in found if path.stem not in left_out]
    if not images:
        raise DataError(f"{', '.join(map(str, folders))}: expected images ({', '.join(sorted(SUFFIXES))}), found none")
    return images


def _read_names(path: Path) -> set[str]:
    try:
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except OSError as error:
        raise DataError(f"{path}: expected a text file of image names, cannot read it: {error.strerror}") from error
