"""Composed data sets: exact truth, held-out images held out, the same bytes from the same seed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from serving.tasks import get_task
from training.datasets.catalog import read_annotated, read_mask
from training.errors import DataError
from training.mosaic_set import MosaicSetConfig, write_mosaic_set

SHADES = {"viable": 60, "necrotic": 110, "normal": 160}


@pytest.fixture
def config(tmp_path: Path) -> MosaicSetConfig:
    """Images of one shade of gray per class, an image's own number in its blue channel."""
    for folder, shade in SHADES.items():
        (tmp_path / "in" / folder).mkdir(parents=True)
        for number in range(5):
            rgb = np.full((80, 80, 3), shade, np.uint8)
            rgb[..., 2] = 10 * number
            Image.fromarray(rgb).save(tmp_path / "in" / folder / f"{number}.png")
    return MosaicSetConfig(
        tmp_path / "in", tuple(SHADES), tmp_path / "out", "osteosarcoma", grid=2, piece_px=32, train=4, test=3, held_out=0.4
    )


def test_truth_is_what_each_pixel_was_made_of(config: MosaicSetConfig) -> None:
    write_mosaic_set(config)
    task = get_task("osteosarcoma")
    for split, count in (("train", 4), ("test", 3)):
        images = read_annotated(config.output, task, "crops", split)
        assert len(images) == count
        for image in images:
            red = np.asarray(Image.open(image.image))[..., 0].astype(int)
            truth = read_mask(image, task)
            expected = np.abs(red[..., None] - np.array(list(SHADES.values()))).argmin(axis=2) + 1
            # Where a turned seam mixes two shades, a third may come out: look away from seams.
            flat = ndimage.maximum_filter(red, 5) == ndimage.minimum_filter(red, 5)
            assert flat.mean() > 0.5
            assert (truth == expected)[flat].all()


def test_no_image_is_in_both_splits(config: MosaicSetConfig) -> None:
    write_mosaic_set(config)
    named = json.loads((config.output / "provenance.json").read_text())["images"]
    for train, test in zip(named["train"], named["test"], strict=True):
        assert (len(train), len(test)) == (3, 2)
        assert not set(train) & set(test)
    held_out = {10 * int(name[0]) for names in named["test"] for name in names}
    for split, forbidden in (("test", {0, 10, 20, 30, 40} - held_out),):
        for path in (config.output / split / "img").iterdir():
            blue = np.asarray(Image.open(path))[8:-8:8, 8:-8:8, 2]
            pure = blue[blue % 10 == 0]
            assert not set(pure.tolist()) & forbidden


def test_the_same_seed_gives_the_same_bytes(config: MosaicSetConfig) -> None:
    def content(folder: Path) -> list[bytes]:
        return [path.read_bytes() for path in sorted(folder.rglob("*.png"))]

    first = content(write_mosaic_set(config))
    again = content(write_mosaic_set(dataclasses.replace(config, output=config.output.with_name("again"))))
    other = content(write_mosaic_set(dataclasses.replace(config, output=config.output.with_name("other"), seed=1)))
    assert first == again
    assert first != other


def test_what_cannot_be_split_is_named(config: MosaicSetConfig) -> None:
    with pytest.raises(DataError, match=r"--folders: expected 3, one for each of viable tumor, necrosis, non-tumor, got 2"):
        write_mosaic_set(dataclasses.replace(config, folders=("viable", "normal")))
    with pytest.raises(DataError, match=r"gone: expected images for both splits, found 0"):
        write_mosaic_set(dataclasses.replace(config, folders=("viable", "gone", "normal")))
    assert not config.output.exists()
    config.output.mkdir()
    with pytest.raises(DataError, match="expected a folder that does not exist yet"):
        write_mosaic_set(config)
