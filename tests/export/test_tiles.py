"""The tiles parity is measured on: from a folder, or generated for the demo, or a clear refusal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.canary import canary_tiles
from export.errors import TilesError
from export.tiles import parity_tiles, read_scored_tiles, read_tiles
from tests.export.networks import DEMO


def write_images(folder: Path, count: int, side_px: int = 224) -> Path:
    for index in range(count):
        Image.fromarray(np.full((side_px, side_px, 3), index, dtype=np.uint8)).save(folder / f"{index:02}.png")
    return folder


def test_tiles_are_spread_over_the_folder(tmp_path: Path) -> None:
    tiles = read_tiles(write_images(tmp_path, 31), 224)
    assert tiles.dtype == np.uint8
    assert tiles.shape == (16, 224, 224, 3)
    assert tiles[:, 0, 0, 0].tolist() == list(range(0, 31, 2))


def test_larger_images_give_their_center(tmp_path: Path) -> None:
    image = np.zeros((300, 260, 3), dtype=np.uint8)
    image[38, 18] = image[38 + 223, 18 + 223] = 255
    for index in range(8):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    tiles = read_tiles(tmp_path, 224)
    assert tiles.shape == (8, 224, 224, 3)
    assert tiles[0, 0, 0].tolist() == tiles[0, -1, -1].tolist() == [255, 255, 255]


def test_folders_that_do_not_serve_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TilesError, match="expected a folder of tile images, found none"):
        read_tiles(tmp_path / "nowhere", 224)
    with pytest.raises(TilesError, match=r"at least 8 images .* found 7"):
        read_tiles(write_images(tmp_path, 7), 224)
    write_images(tmp_path, 8, side_px=100)
    with pytest.raises(TilesError, match="at least 224×224 px, got 100×100"):
        read_tiles(tmp_path, 224)
    (tmp_path / "00.png").write_text("no image")
    with pytest.raises(TilesError, match=r"00\.png: expected an image"):
        read_tiles(tmp_path, 224)


def test_only_the_demo_generates_its_tiles() -> None:
    tiles = parity_tiles(DEMO, None)
    assert tiles.dtype == np.uint8
    assert tiles.shape == (8, 224, 224, 3)
    assert len({tile.tobytes() for tile in tiles}) == 8
    np.testing.assert_array_equal(tiles, parity_tiles(DEMO, None))
    with pytest.raises(TilesError, match=r"task 'bcss': .*--tiles"):
        parity_tiles(dataclasses.replace(DEMO, name="bcss"), None)


def test_the_canary_is_generated_and_has_glass_in_one_corner_only() -> None:
    canary = canary_tiles(128)
    assert canary.shape == (2, 128, 128, 3)
    assert (canary[1, :64, :64] == 255).all()
    assert (canary[1, 64:] < 255).mean() > 0.9
    assert (canary[0] != canary[1]).any()
    np.testing.assert_array_equal(canary, canary_tiles(128))


def scored_folders(folder: Path) -> tuple[Path, Path]:
    """80 images 226 px wide and their masks: image i has gray i, its mask label 1 + i % 4 with a frame of 255 and a corner of 0."""
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()
    for index in range(80):
        Image.fromarray(np.full((226, 226, 3), index, dtype=np.uint8)).save(images / f"{index:02}.png")
        mask = np.full((226, 226), 255, dtype=np.uint8)
        mask[2:-2, 2:-2] = 1 + index % 4
        mask[2:12, 2:12] = 0
        picture = Image.fromarray(mask, mode="P")
        picture.putpalette([0] * 768)
        picture.save(masks / f"{index:02}.png")
    return images, masks


def test_scored_tiles_come_with_their_truth(tmp_path: Path) -> None:
    tiles, truths = read_scored_tiles(*scored_folders(tmp_path), DEMO)
    assert (tiles.shape, truths.shape) == ((64, 224, 224, 3), (64, 224, 224))
    assert (truths[:, 100, 100] == 1 + tiles[:, 100, 100, 0] % 4).all()
    assert truths[0, :3, 100].tolist() == [0, 1, 1]  # what is not annotated is not scored
    assert truths[0, 5, 5] == 0
    assert set(np.unique(truths)) == {0, 1, 2, 3, 4}


def test_masks_that_are_no_truth_are_refused(tmp_path: Path) -> None:
    images, masks = scored_folders(tmp_path)
    Image.fromarray(np.full((226, 226), 5, dtype=np.uint8)).save(masks / "00.png")
    with pytest.raises(TilesError, match=r"00\.png: expected one channel with labels 0…4 or 255, got 1 and \[5\]"):
        read_scored_tiles(images, masks, DEMO)
    Image.fromarray(np.full((224, 226), 1, dtype=np.uint8)).save(masks / "00.png")
    with pytest.raises(TilesError, match=r"00\.png: expected a mask of its image's size \(226, 226\), got \(226, 224\)"):
        read_scored_tiles(images, masks, DEMO)
    (masks / "00.png").unlink()
    with pytest.raises(TilesError, match=r"00\.png: expected an image"):
        read_scored_tiles(images, masks, DEMO)
