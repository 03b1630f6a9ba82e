"""Generated H&E-like tissue with exact truth as a data set of format `crops`, splits `train` and `test`. No torch."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from serving.tasks import get_task

from .errors import DataError, RecipeError
from .patches import save_mask
from .tissue.patch import draw_patch

_SEED_STRIDE = 1_000_003  # prime: sets of different seeds share no image until there are a million of them
_TEST_FROM = 500_000  # of a set's images


@dataclass(frozen=True)
class GenerateConfig:
    """Generate annotated tissue of task `demo`: for trials and ablations where no annotated tissue is at hand. It is no evidence about real tissue."""

    output: Path
    """Folder that gets train/{img,mask} and test/{img,mask}."""
    train: int = 120
    """Images to generate for training."""
    test: int = 30
    image_px: int = 384
    """Side of the images."""
    seed: int = 0


def generate(config: GenerateConfig) -> Path:
    """Write both splits; the folder appears whole or not at all.

    Raises:
        DataError: the folder is already there.
        RecipeError: counts or sides that cannot be.
    """
    if min(config.train, config.test) < 1 or max(config.train, config.test) > _TEST_FROM or config.image_px < 64 or config.seed < 0:
        raise RecipeError(f"generate: expected 1…{_TEST_FROM} images a split of at least 64 px and a seed of at least 0, got {config}")
    if config.output.exists():
        raise DataError(f"{config.output}: expected a folder that does not exist yet, found one: remove it or choose another")
    partial = config.output.with_name(config.output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    colors = [tissue.color for tissue in get_task("demo").classes]
    for split, count, first in (("train", config.train, 0), ("test", config.test, _TEST_FROM)):
        for name in ("img", "mask"):
            (partial / split / name).mkdir(parents=True)
        for index in range(count):
            rgb, labels = draw_patch(config.seed * _SEED_STRIDE + first + index, config.image_px)
            Image.fromarray(rgb).save(partial / split / "img" / f"{index:05d}.png")
            save_mask(partial / split / "mask" / f"{index:05d}.png", labels, colors)
    os.replace(partial, config.output)
    return config.output
