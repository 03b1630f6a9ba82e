"""Generated data sets: truth of every image, splits that share nothing, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from serving.tasks import get_task
from training.datasets.catalog import read_annotated, read_mask
from training.datasets.image_file import read_rgb
from training.errors import DataError, RecipeError
from training.generate import GenerateConfig, generate
from training.tissue.patch import draw_patch


def test_images_and_truth_are_those_of_the_generator_and_splits_share_none(tmp_path: Path) -> None:
    config = GenerateConfig(tmp_path / "out", train=3, test=2, image_px=64, seed=2)
    generate(config)
    found = {split: read_annotated(config.output, get_task("demo"), "crops", split) for split in ("train", "test")}
    assert {split: len(images) for split, images in found.items()} == {"train": 3, "test": 2}
    rgb, labels = draw_patch(2 * 1_000_003 + 1, 64)
    np.testing.assert_array_equal(read_rgb(found["train"][1].image), rgb)
    np.testing.assert_array_equal(read_mask(found["train"][1], get_task("demo")), labels)
    bytes_of = {split: {image.image.read_bytes() for image in images} for split, images in found.items()}
    assert not bytes_of["train"] & bytes_of["test"]
    with pytest.raises(DataError, match="does not exist yet"):
        generate(config)
    with pytest.raises(RecipeError, match="at least 64 px"):
        generate(dataclasses.replace(config, output=tmp_path / "other", image_px=32))
    assert not (tmp_path / "other").exists()
