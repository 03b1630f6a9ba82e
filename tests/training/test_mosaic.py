"""Synthesized images: labels stay on their pixels, eq. 1's order and bounds, and files that are written once, whole and the same each time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.background import background_mask
from serving.contract import BackgroundRule
from serving.tasks import get_task
from training import mosaic, mosaic_files
from training.datasets.image_file import read_indices, read_rgb
from training.errors import DataError, RecipeError
from training.mosaic import MosaicOptions, draw_mosaic
from training.mosaic_files import write_mosaics
from training.mosaic_sheet import write_contact_sheet
from training.patch_dataset import PatchDataset, PatchSample

TASK = dataclasses.replace(get_task("wsss4luad"), tile_px=64, background=None)
BRIGHT = dataclasses.replace(TASK, background=BackgroundRule(gray_above=200, min_size_px=4))
OPTIONS = MosaicOptions(grid=(4, 4), piece_px=16, count=5)
STILL = dataclasses.replace(OPTIONS, rotation_deg=0.0, scale=(1.0, 1.0))
COLORS = np.array([(180, 40, 40), (40, 180, 40), (40, 40, 180)], np.uint8)  # of class 1, 2, 3; none is black, none background


def plain(size: int = 24) -> list[list[npt.NDArray[np.uint8]]]:
    """Images whose color says their class; so that a mosaic's own pixels tell what its labels must be."""
    return [[np.tile(color, (size, size, 1)), np.tile(color, (16, 16, 1))] for color in COLORS]


def class_of(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """1…3 where a pixel has exactly a class's color, 0 where two were blended."""
    same = (rgb[..., None, :] == COLORS).all(axis=-1)
    return np.where(same.any(axis=-1), same.argmax(axis=-1) + 1, 0)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    rotation=st.sampled_from([0.0, 10.0, 45.0, 180.0]),
    scale=st.sampled_from([(1.0, 1.0), (0.5, 0.6), (0.8, 1.2), (2.0, 3.0)]),
    flip=st.booleans(),
)
def test_labels_are_on_the_pixels_of_their_class(seed: int, rotation: float, scale: tuple[float, float], flip: bool) -> None:
    options = dataclasses.replace(OPTIONS, rotation_deg=rotation, scale=scale, flip=flip)
    rgb, labels = draw_mosaic(plain(), TASK, options, np.random.default_rng(seed))
    assert (rgb.shape, labels.shape) == ((64, 64, 3), (64, 64))
    assert rgb.dtype == labels.dtype == np.uint8
    shown = class_of(rgb)
    np.testing.assert_array_equal(labels[shown > 0], shown[shown > 0])
    assert (shown > 0).mean() > 0.5  # blends lie along borders only
    assert rgb.min() >= 40  # what a turn exposes is the image's reflection, never black
    assert labels.min() >= 1


def test_the_quadrants_are_those_of_equation_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """[[I1, I3], [I2, I4]] around an anchor within alpha and beta of each side: each spliced image is given a shade of its own."""
    splice, shades = mosaic._splice, [60, 100, 140, 180]
    drawn: list[int] = []

    def shaded(*arguments: object) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        rgb, labels = splice(*arguments)  # type: ignore[arg-type]
        drawn.append(shades[len(drawn) % 4])
        return np.full_like(rgb, drawn[-1]), labels

    monkeypatch.setattr(mosaic, "_splice", shaded)
    anchors = set()
    for seed in range(40):
        shade = draw_mosaic(plain(), TASK, OPTIONS, np.random.default_rng(seed))[0][..., 0]
        height, width = int((shade[:, 0] == 60).sum()), int((shade[0] == 60).sum())
        anchors.add((height, width))
        np.testing.assert_array_equal(np.unique(shade[:height, :width]), [60])
        np.testing.assert_array_equal(np.unique(shade[height:, :width]), [100])
        np.testing.assert_array_equal(np.unique(shade[:height, width:]), [140])
        np.testing.assert_array_equal(np.unique(shade[height:, width:]), [180])
        assert 0.2 * 64 <= min(height, width) <= max(height, width) <= 0.8 * 64
    assert len(anchors) > 30  # both coordinates vary
    fixed = dataclasses.replace(OPTIONS, alpha=0.5, beta=0.5)
    shade = draw_mosaic(plain(), TASK, fixed, np.random.default_rng(0))[0][..., 0]
    assert (shade[:32, :32] == 60).all()


def test_without_a_turn_a_quadrant_is_made_of_whole_pixels_of_its_pieces() -> None:
    random = np.random.default_rng(0)
    noise = [[random.integers(0, 256, (16, 16, 3), dtype=np.uint8)] for _ in range(3)]
    rgb, labels = draw_mosaic(noise, TASK, STILL, np.random.default_rng(1))
    pixels = [{tuple(pixel) for pixel in images[0].reshape(-1, 3).tolist()} for images in noise]
    for pixel, label in zip(rgb.reshape(-1, 3).tolist(), labels.ravel().tolist(), strict=True):
        assert tuple(pixel) in pixels[label - 1]


ROWS, COLUMNS = np.mgrid[0:64, 0:64].astype(np.uint8)
WHERE = np.stack([2 * ROWS, 2 * COLUMNS, 2 * ROWS], axis=2)  # each pixel says where it is


def turned(seed: int, shape: tuple[int, int] = (64, 64), **options: object) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    changed = dataclasses.replace(STILL, **options)  # type: ignore[arg-type]
    return mosaic._turned_cut(WHERE, ROWS, shape, changed, np.random.default_rng(seed))


def test_no_turn_no_factor_no_flip_leave_the_image_as_it_is() -> None:
    rgb, labels = turned(0)
    np.testing.assert_array_equal(rgb, WHERE)
    np.testing.assert_array_equal(labels, ROWS)
    corners = {tuple(turned(seed, (60, 62))[0][0, 0, :2].tolist()) for seed in range(200)}
    assert corners == {(2 * y, 2 * x) for y in range(5) for x in range(3)}  # cut everywhere


def test_flips_are_in_both_directions() -> None:
    assert {tuple(turned(seed, flip=True)[0][0, 0, :2].tolist()) for seed in range(40)} == {(0, 0), (0, 126), (126, 0), (126, 126)}


@pytest.mark.parametrize("most", [10.0, 45.0])
def test_angles_and_factors_fill_their_ranges(most: float) -> None:
    angles, factors = [], []
    for seed in range(60):
        middle = turned(seed, rotation_deg=most, scale=(0.8, 1.1))[0][20:44, 20:44, :2].astype(float) / 2
        down, across = (middle[-1, 12] - middle[0, 12]) / 23, (middle[12, -1] - middle[12, 0]) / 23
        assert float(down @ across) == pytest.approx(0, abs=0.05)  # no shear
        assert float(np.hypot(*down)) == pytest.approx(float(np.hypot(*across)), abs=0.05)  # one factor for both sides
        angles.append(np.degrees(np.arctan2(down[1], down[0])))
        factors.append(1 / np.hypot(*down))
    assert max(angles) == pytest.approx(most, rel=0.1)
    assert min(angles) == pytest.approx(-most, rel=0.1)
    assert min(factors) == pytest.approx(0.8, abs=0.04)
    assert max(factors) == pytest.approx(1.1, abs=0.04)


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_turned_as_the_image_is(seed: int) -> None:
    rgb, labels = turned(seed, rotation_deg=45.0, scale=(0.8, 1.25), flip=True)
    assert np.abs(rgb[..., 0] / 2 - labels).max() <= 0.75  # nearest and bilinear: half a pixel, and the rounding
    stripes = np.where(ROWS % 8 < 4, 1, 3).astype(np.uint8)
    options = dataclasses.replace(STILL, rotation_deg=45.0)
    turned_stripes = mosaic._turned_cut(WHERE, stripes, (64, 64), options, np.random.default_rng(seed))[1]
    assert set(np.unique(turned_stripes)) == {1, 3}  # no class between two others is invented


@pytest.mark.parametrize(("balance", "rare"), [(1.0, 1 / 3), (0.0, 1 / 22), (0.5, (1 / 3 + 1 / 22) / 2)])
def test_classes_are_as_often_as_balance_says(balance: float, rare: float) -> None:
    images = [[np.tile(COLORS[0], (16, 16, 1))] * 20, *plain()[1:]]
    images[1], images[2] = images[1][:1], images[2][:1]
    options = dataclasses.replace(OPTIONS, balance=balance)
    random = np.random.default_rng(0)
    labels = np.concatenate([draw_mosaic(images, TASK, options, random)[1].ravel() for _ in range(60)])
    assert (labels == 3).mean() == pytest.approx(rare, abs=0.035)


def test_small_images_are_reflected_and_large_ones_cut_everywhere() -> None:
    small = np.arange(1, 10 * 12 * 3 + 1, dtype=np.int64).reshape(10, 12, 3).astype(np.uint8)
    cut = mosaic._cut(small, 16, np.random.default_rng(0))
    np.testing.assert_array_equal(cut[:10, :12], small)
    np.testing.assert_array_equal(cut[10:, :12], small[::-1][:6])
    rows = np.repeat(np.arange(40, dtype=np.uint8)[:, None, None], 40, axis=1).repeat(3, axis=2)
    random = np.random.default_rng(0)
    assert {int(mosaic._cut(rows, 16, random)[0, 0, 0]) for _ in range(300)} == set(range(25))


def test_background_is_zero_by_the_rule_on_the_finished_image() -> None:
    images = plain()
    images[0][0][5:15, 5:15] = 250
    rgb, labels = draw_mosaic(images, BRIGHT, OPTIONS, np.random.default_rng(0))
    background = background_mask(rgb, 200, 4)
    assert background.any()
    np.testing.assert_array_equal(labels == 0, background)


def test_pieces_of_background_are_drawn_again() -> None:
    images = plain(16)
    images[0].append(np.full((16, 16, 3), 250, np.uint8))
    keep = dataclasses.replace(STILL, background_below=1.0)
    assert (draw_mosaic(images, BRIGHT, keep, np.random.default_rng(0))[1] == 0).any()
    assert (draw_mosaic(images, BRIGHT, STILL, np.random.default_rng(0))[1] != 0).all()
    images[0] = images[0][2:]
    with pytest.raises(DataError, match=r"piece of 'tumor' with at most 80% of background, got none in 100 draws from 1 images"):
        draw_mosaic(images, BRIGHT, STILL, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": (0, 4)}, "at least 1"),
        ({"alpha": 0.0}, "0 < alpha"),
        ({"alpha": 0.9}, "0 < alpha"),
        ({"beta": 1.0}, "0 < alpha"),
        ({"scale": (1.2, 0.8)}, "ascending range"),
        ({"scale": (0.0, 1.0)}, "ascending range"),
        ({"balance": 1.5}, "within 0…1"),
        ({"background_below": -0.1}, "within 0…1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dataclasses.replace(OPTIONS, **options)  # type: ignore[arg-type]


def test_a_grid_that_does_not_fill_the_tile_and_an_anchor_that_is_nowhere() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(RecipeError, match=r"tile of 64 px of task 'wsss4luad', got 4×3 pieces of 16 px = 64×48"):
        draw_mosaic(plain(), TASK, dataclasses.replace(OPTIONS, grid=(4, 3)), random)
    with pytest.raises(RecipeError, match="anchor between"):
        draw_mosaic(plain(), TASK, dataclasses.replace(OPTIONS, alpha=0.501, beta=0.51), random)
    with pytest.raises(DataError, match="found none of stroma, normal"):
        draw_mosaic([plain()[0], [], []], TASK, OPTIONS, random)
    with pytest.raises(DataError, match="3 classes of task 'wsss4luad', got 2"):
        draw_mosaic(plain()[:2], TASK, OPTIONS, random)


# --- files


def patches(folder: Path) -> list[PatchSample]:
    """Two noisy images of each class in its color, and one with two classes, in a color that no mosaic may show."""
    folder.mkdir()
    random = np.random.default_rng(0)
    samples = []
    for index, labels in enumerate([(1, 0, 0), (0, 1, 0), (0, 0, 1)] * 2):
        noise = random.integers(-20, 20, (32, 40, 3))
        Image.fromarray((COLORS[index % 3] + noise).astype(np.uint8)).save(folder / f"{index}.png")
        samples.append(PatchSample(folder / f"{index}.png", labels))
    Image.fromarray(np.full((32, 32, 3), 5, np.uint8)).save(folder / "both.png")
    return [*samples, PatchSample(folder / "both.png", (1, 1, 0)), PatchSample(folder / "both.png", (0, 0, 0))]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_files_are_a_training_set(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stage.json").write_text("{}")  # what a run notes about its stage is none of the mosaics' business
    samples = write_mosaics(patches(tmp_path / "in"), BRIGHT, tmp_path / "out", OPTIONS)
    assert [sample.image.name for sample in samples] == [f"{index:05d}.png" for index in range(5)]
    pixels = np.zeros(4)
    for sample in samples:
        assert sample.target is not None
        labels = read_indices(sample.target)
        assert sample.labels == tuple(int((labels == number).any()) for number in (1, 2, 3))
        assert read_rgb(sample.image).min() >= 20  # the image with two classes is not used
        pixels += np.bincount(labels.ravel(), minlength=4)
        with Image.open(sample.target) as mask:
            assert mask.mode == "P"
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert list(provenance["pixel_shares"].values()) == pytest.approx((pixels / pixels.sum()).tolist())
    assert list(provenance["pixel_shares"]) == ["background", "tumor", "stroma", "normal"]
    item = PatchDataset(samples, BRIGHT, None, seed=0)[0]
    assert item["target"].shape == (64, 64)
    assert item["valid"].all()


def test_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = patches(tmp_path / "in")
    first = write_mosaics(sources, TASK, tmp_path / "out", OPTIONS)
    before = content(tmp_path / "out")
    assert sorted(before) == sorted([*(f"{kind}/{n:05d}.png" for kind in ("images", "masks") for n in range(5)), "provenance.json"])

    def never(*arguments: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(mosaic_files, "draw_mosaic", never)
    assert write_mosaics(sources, TASK, tmp_path / "out", OPTIONS) == first
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_write_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    sources, draws = patches(tmp_path / "in"), 0
    whole = write_mosaics(sources, TASK, tmp_path / "whole", OPTIONS)

    def interrupted(*arguments: object) -> object:
        nonlocal draws
        draws += 1
        if draws == after + 1:
            raise KeyboardInterrupt
        return draw_mosaic(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(mosaic_files, "draw_mosaic", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_mosaics(sources, TASK, tmp_path / "cut", OPTIONS)
    assert not (tmp_path / "cut" / "provenance.json").exists()
    with pytest.raises(DataError, match=r"seed is 0 there, 1 wanted"):  # it is not gone on with in another way
        write_mosaics(sources, TASK, tmp_path / "cut", dataclasses.replace(OPTIONS, seed=1))
    (tmp_path / "cut" / "masks" / "00000.png").unlink(missing_ok=True)  # as if stopped between image and mask
    resumed = write_mosaics(sources, TASK, tmp_path / "cut", OPTIONS)
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert [sample.labels for sample in resumed] == [sample.labels for sample in whole]


def test_seed_and_number_alone_decide(tmp_path: Path) -> None:
    sources = patches(tmp_path / "in")
    longer, other = dataclasses.replace(OPTIONS, count=7), dataclasses.replace(OPTIONS, seed=1)
    five, seven, seeded = (
        [read_rgb(sample.image).tobytes() for sample in write_mosaics(sources, TASK, tmp_path / name, options)]
        for name, options in (("five", OPTIONS), ("seven", longer), ("seeded", other))
    )
    assert seven[:5] == five
    assert len({*seven, *seeded}) == 12


def test_the_cache_changes_nothing(tmp_path: Path) -> None:
    sources = patches(tmp_path / "in")
    for name, cache_mb in (("kept", 64), ("read", 0)):
        write_mosaics(sources, TASK, tmp_path / name, OPTIONS, cache_mb=cache_mb)
    assert content(tmp_path / "kept") == content(tmp_path / "read")


def test_patches_are_brought_to_the_tile_s_scale(tmp_path: Path) -> None:
    """Stripes of 4 px in patches of 32 px for a tile of 64 are stripes of 8 px."""
    stripes = np.where(np.arange(32) // 4 % 2, 200, 40).astype(np.uint8)
    samples = []
    for index in range(3):
        Image.fromarray(np.tile(stripes[None, :, None], (32, 1, 3))).save(tmp_path / f"{index}.png")
        samples.append(PatchSample(tmp_path / f"{index}.png", tuple(int(number == index) for number in range(3))))
    options = dataclasses.replace(STILL, grid=(1, 1), piece_px=64, count=1, alpha=0.5, beta=0.5)
    for patch_px, changes in ((None, 64 // 4), (32, 64 // 8)):
        image = write_mosaics(samples, TASK, tmp_path / f"out-{patch_px}", options, patch_px)[0].image
        bright = read_rgb(image)[0, :, 0] > 120
        assert int((bright[1:] != bright[:-1]).sum()) == pytest.approx(changes, abs=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda: (TASK, dataclasses.replace(OPTIONS, grid=(2, 2), piece_px=32)),
            r"grid is \[4, 4\] there, \[2, 2\] wanted; piece_px is 16",
        ),
        (lambda: (BRIGHT, OPTIONS), r"background is None there, \{'gray_above': 200"),
        (lambda: (TASK, dataclasses.replace(OPTIONS, count=6)), r"count is 5 there, 6 wanted: remove the folder, or choose another"),
    ],
)
def test_other_options_are_refused(tmp_path: Path, change: object, message: str) -> None:
    sources = patches(tmp_path / "in")
    write_mosaics(sources, TASK, tmp_path / "out", OPTIONS)
    task, options = change()  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        write_mosaics(sources, task, tmp_path / "out", options)


def refuse(sources: Sequence[PatchSample], folder: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_mosaics(sources, TASK, folder, OPTIONS)


def test_other_images_and_other_folders_are_refused(tmp_path: Path) -> None:
    sources = patches(tmp_path / "in")
    write_mosaics(sources, TASK, tmp_path / "out", OPTIONS)
    refuse(sources[:5], tmp_path / "out", "images is '")
    (tmp_path / "out" / "masks" / "00003.png").unlink()
    refuse(sources, tmp_path / "out", r"expected 00003\.png in images/ and masks/, found no such file: remove the folder")
    (tmp_path / "out" / "provenance.json").write_text("{")
    refuse(sources, tmp_path / "out", "expected JSON")
    (tmp_path / "out" / "provenance.json").unlink()
    refuse(sources, tmp_path / "out", "choose another folder")
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(sources[0].image)  # another image of the same name
    write_mosaics(patches(tmp_path / "in2"), TASK, tmp_path / "out2", OPTIONS)
    refuse(sources, tmp_path / "out2", "images is '")


def test_classes_without_images_are_named(tmp_path: Path) -> None:
    sources = patches(tmp_path / "in")
    refuse([sources[0], sources[6]], tmp_path / "out", r"found none of stroma, normal: such a class cannot be learned")
    refuse([PatchSample(sources[0].image, (1, 0))], tmp_path / "out", "label of 3 classes for task 'wsss4luad', got 2")
    refuse([*sources[:2], PatchSample(tmp_path / "none.png", (0, 0, 1))], tmp_path / "out", r"none\.png: expected an image, found no file")
    assert not (tmp_path / "out" / "provenance.json").exists()


def test_contact_sheet_shows_images_beside_their_masks(tmp_path: Path) -> None:
    samples = write_mosaics(patches(tmp_path / "in"), TASK, tmp_path / "out", OPTIONS)
    write_contact_sheet(samples, TASK, tmp_path / "sheets" / "sheet.png", columns=2, rows=3)
    sheet = read_rgb(tmp_path / "sheets" / "sheet.png")
    assert sheet.shape == (3 * 68 + 4, 2 * 132 + 4, 3)
    third = samples[2]  # the first of the second row
    np.testing.assert_array_equal(sheet[72:136, 4:68], read_rgb(third.image))
    assert third.target is not None
    colors = np.array([(255, 255, 255), *(tissue.color for tissue in TASK.classes)], np.uint8)
    np.testing.assert_array_equal(sheet[72:136, 68:132], colors[read_indices(third.target)])
    with pytest.raises(DataError, match="expected a mask"):
        write_contact_sheet([dataclasses.replace(third, target=None)], TASK, tmp_path / "sheet.png")
    with pytest.raises(DataError, match="at least one sample"):
        write_contact_sheet([], TASK, tmp_path / "sheet.png")
