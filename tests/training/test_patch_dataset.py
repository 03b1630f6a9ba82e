"""Patches of any size as items of the tile's size: what is padded, what is cut, and that targets stay on their pixels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from serving.tasks import get_task
from training.datasets.placement import IGNORE_LABEL
from training.errors import DataError, RecipeError
from training.patch_dataset import Augmentation, PatchDataset, PatchSample
from training.patches import save_mask

TASK = dataclasses.replace(get_task("wsss4luad"), tile_px=32)
COLORS = [tissue.color for tissue in TASK.classes]


def sample(folder: Path, width_px: int, height_px: int, target: tuple[int, int] | None = None, name: str = "a") -> PatchSample:
    """A patch whose red channel says the class (20 × label) of every pixel; its target, of (width, height), says it too."""
    labels = np.random.default_rng(0).integers(0, 4, (height_px, width_px), dtype=np.uint8)
    image, mask = folder / f"{name}.png", folder / f"{name}-target.png"
    Image.fromarray(np.stack([20 * labels, labels, labels], axis=2)).save(image)
    if target is not None:
        save_mask(mask, labels if target == (width_px, height_px) else np.ones(target[::-1], np.uint8), COLORS)
    return PatchSample(image, (1, 1, 0), None if target is None else mask)


def red_as_label(image: torch.Tensor) -> npt.NDArray[np.int64]:
    return np.asarray(image[0].numpy() // 20, np.int64)


def test_a_patch_of_the_tile_s_size_is_left_as_it_is(tmp_path: Path) -> None:
    patch = sample(tmp_path, 32, 32, (32, 32))
    item = PatchDataset([patch], TASK, None, seed=0)[0]
    with Image.open(patch.image) as image:
        np.testing.assert_array_equal(item["image"].permute(1, 2, 0).numpy(), np.asarray(image))
    np.testing.assert_array_equal(item["target"].numpy(), red_as_label(item["image"]))
    assert item["valid"].all()
    assert item["labels"].tolist() == [1, 1, 0]
    assert {key: (value.dtype, tuple(value.shape)) for key, value in item.items()} == {
        "image": (torch.uint8, (3, 32, 32)),
        "background": (torch.bool, (32, 32)),
        "valid": (torch.bool, (32, 32)),
        "labels": (torch.float32, (3,)),
        "target": (torch.int64, (32, 32)),
    }


def test_padding_is_no_part_of_the_target(tmp_path: Path) -> None:
    item = PatchDataset([sample(tmp_path, 20, 30, (20, 30))], TASK, None, seed=0)[0]
    assert item["valid"][:30, :20].all()
    assert item["valid"].sum() == 600
    assert (item["target"][~item["valid"]] == IGNORE_LABEL).all()
    np.testing.assert_array_equal(item["target"][:30, :20].numpy(), red_as_label(item["image"])[:30, :20])
    np.testing.assert_array_equal(item["image"][:, :30, 20:].numpy(), item["image"][:, :30, 7:19].flip(2).numpy())


def test_a_pseudo_mask_of_the_tile_loses_its_padding(tmp_path: Path) -> None:
    item = PatchDataset([sample(tmp_path, 20, 30, (32, 32))], TASK, None, seed=0)[0]
    assert (item["target"][item["valid"]] == 1).all()
    assert (item["target"][~item["valid"]] == IGNORE_LABEL).all()


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(flips=False)])
@pytest.mark.parametrize("size", [(32, 32), (20, 30), (45, 33), (50, 20)])
def test_image_and_target_are_turned_and_cut_as_one(tmp_path: Path, size: tuple[int, int], augmentation: Augmentation) -> None:
    plain = dataclasses.replace(augmentation, color_jitter=0.0)
    dataset = PatchDataset([sample(tmp_path, *size, size)], TASK, plain, seed=3)
    views = {}
    for _ in range(8):
        item = dataset[0]
        valid = item["valid"].numpy()
        np.testing.assert_array_equal(item["target"].numpy()[valid], red_as_label(item["image"])[valid])
        assert valid.sum() == min(size[0], 32) * min(size[1], 32)
        views[item["image"].numpy().tobytes()] = valid
    assert len(views) > 2 or (size == (32, 32) and not augmentation.flips) or max(size) < 32


def test_with_a_pseudo_mask_a_longer_image_gives_its_middle(tmp_path: Path) -> None:
    patch = sample(tmp_path, 44, 40, (32, 32))
    item = PatchDataset([patch], TASK, Augmentation(flips=False, color_jitter=0.0), seed=3)[0]
    with Image.open(patch.image) as image:
        np.testing.assert_array_equal(item["image"].permute(1, 2, 0).numpy(), np.asarray(image)[4:36, 6:38])


def test_patches_are_brought_to_the_tile_s_scale(tmp_path: Path) -> None:
    item = PatchDataset([sample(tmp_path, 16, 16, (16, 16))], TASK, None, seed=0, patch_px=16)[0]
    assert item["valid"].all()
    target = item["target"].numpy()
    np.testing.assert_array_equal(target, target[::2, ::2].repeat(2, 0).repeat(2, 1))
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(target[::2, ::2], np.asarray(image)[..., 1])
    short = PatchDataset([sample(tmp_path, 16, 10, (16, 10))], TASK, None, seed=0, patch_px=16)[0]
    assert short["valid"].sum() == 32 * 20


@pytest.mark.parametrize(
    ("size", "patch_px", "got"), [((16, 40), None, "16×40"), ((70, 40), None, "70×40"), ((8, 16), 16, "8×16, 16×32 at")]
)
def test_sizes_that_make_no_tile(tmp_path: Path, size: tuple[int, int], patch_px: int | None, got: str) -> None:
    dataset = PatchDataset([sample(tmp_path, *size)], TASK, None, seed=0, patch_px=patch_px)
    with pytest.raises(DataError, match=rf"a\.png: expected sides of 17…64 px for a tile of 32, got {got}"):
        dataset[0]


def test_targets_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 20×30 px, the image's size, or 32×32, the tile's, got 30×20"):
        PatchDataset([sample(tmp_path, 20, 30, (30, 20))], TASK, None, seed=0)[0]
    with pytest.raises(DataError, match="whether this target is on the image or on the tile cannot be told"):
        PatchDataset([sample(tmp_path, 32, 32, (32, 32))], TASK, None, seed=0, patch_px=24)[0]
    patch = sample(tmp_path, 32, 32, (32, 32))
    assert patch.target is not None
    save_mask(patch.target, np.full((32, 32), 4, np.uint8), COLORS)
    with pytest.raises(DataError, match=r"a-target\.png: expected a label image of 0…3 or 255 \(ignored\), got 4"):
        PatchDataset([patch], TASK, None, seed=0)[0]
    save_mask(patch.target, np.full((32, 32), IGNORE_LABEL, np.uint8), COLORS)
    assert (PatchDataset([patch], TASK, None, seed=0)[0]["target"] == IGNORE_LABEL).all()


def test_data_sets_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one patch, got none"):
        PatchDataset([], TASK, None, seed=0)
    with pytest.raises(RecipeError, match="patch_px: expected at least 1 px, got 0"):
        PatchDataset([sample(tmp_path, 32, 32)], TASK, None, seed=0, patch_px=0)


def test_workers_draw_different_numbers(tmp_path: Path) -> None:
    patches = [sample(tmp_path, 32, 32, name=str(index)) for index in range(8)]  # eight times the same pixels
    dataset = PatchDataset(patches, TASK, Augmentation(flips=False, color_jitter=0.5), seed=0)

    def gains(seed: int) -> set[bytes]:
        loader = DataLoader(dataset, batch_size=1, num_workers=2, generator=torch.Generator().manual_seed(seed))
        return {batch["image"].numpy().tobytes() for batch in loader}

    assert len(gains(0)) == 8
    assert gains(0) == gains(0)
    assert gains(0) != gains(1)
