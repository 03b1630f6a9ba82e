"""Annotated images cut into patches: literal geometry, labels from masks, splits by image, and a folder that appears whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from serving.tasks import get_task
from training.cut_patches import PatchesConfig, cut_patches, list_windows, starts
from training.datasets.annotated import AnnotatedImage
from training.datasets.catalog import read_annotated, read_mask, read_training
from training.datasets.folds import select_part
from training.errors import DataError, RecipeError
from training.patches import image_labels, save_mask, write_labels
from training.patches_cli import main

from .datasets.trees import blocks, put_image, put_pair

TASK = get_task("wsss4luad")
DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data (../shared/data) is not here")


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Five crops of 20×10 px, tumor left and stroma right; one of them normal alone, one of glass alone."""
    folder = tmp_path / "crops"
    for name, columns in {"00": (0, 1), "01": (0, 1), "02": (0, 1), "03": (2, 2), "04": (3, 3)}.items():
        put_pair(folder, f"{name}.png", blocks(*columns, side_px=10))
    return folder


def config(data: Path, **changes: object) -> PatchesConfig:
    plain = PatchesConfig(data, data.parent / "patches", "wsss4luad", patch_px=8, stride_px=6)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("side_px", "patch_px", "stride_px", "expected"),
    [
        (224, 112, 56, [0, 56, 112]),
        (225, 112, 56, [0, 56, 112, 113]),  # the last is flush with the edge
        (112, 112, 56, [0]),
        (100, 112, 56, [0]),  # shorter than a patch
        (500, 224, 112, [0, 112, 224, 276]),
    ],
)
def test_where_patches_start(side_px: int, patch_px: int, stride_px: int, expected: list[int]) -> None:
    assert starts(side_px, patch_px, stride_px) == expected


@given(side_px=st.integers(1, 300), patch_px=st.integers(1, 120), data=st.data())
def test_every_pixel_is_in_a_patch(side_px: int, patch_px: int, data: st.DataObject) -> None:
    stride_px = data.draw(st.integers(1, patch_px))
    covered = np.zeros(side_px, np.bool_)
    for start in starts(side_px, patch_px, stride_px):
        assert start + min(patch_px, side_px) <= side_px
        covered[start : start + patch_px] = True
    assert covered.all()


def test_windows_and_their_labels() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[:, :8], mask[0, 19] = 1, 3  # a single pixel of class 3: 1/64 > 1 %
    windows = list_windows(AnnotatedImage(Path("img/a.png"), Path("mask/a.png")), mask, 3, 8, 6)
    assert [(window.x_i, window.y_i, window.labels) for window in windows] == [
        *((0, 0, (1, 0, 0)), (6, 0, (1, 0, 0)), (12, 0, (0, 0, 1))),
        *((0, 2, (1, 0, 0)), (6, 2, (1, 0, 0)), (12, 2, (0, 0, 0))),
    ]
    assert windows[5].name == "a_x00012_y00002.png"
    assert {(window.width_px, window.height_px) for window in windows} == {(8, 8)}


def test_an_image_shorter_than_a_patch_gives_a_shorter_one() -> None:
    (window,) = list_windows(AnnotatedImage(Path("a.png"), Path("a.png")), np.ones((5, 8), np.uint8), 3, 8, 6)
    assert (window.width_px, window.height_px) == (8, 5)


def test_the_folder_is_what_training_reads(crops: Path) -> None:
    result = cut_patches(config(crops))
    records = read_training(result.folder, TASK, "folder")
    assert len(records) == result.patches == 4 * 6
    assert result.without_class == 6
    assert result.per_class == {"tumor": 3 * 4, "stroma": 3 * 4, "normal": 6}
    for record in records:
        stem, x_i, y_i = record.image.stem.split("_")
        place = np.s_[int(y_i[1:]) :, int(x_i[1:]) :]
        with Image.open(crops / "img" / f"{stem}.png") as whole, Image.open(record.image) as patch:
            np.testing.assert_array_equal(np.asarray(patch), np.asarray(whole)[place][:8, :8])
        assert record.mask is not None
        raw = AnnotatedImage(crops / "img" / f"{stem}.png", crops / "mask" / f"{stem}.png")
        with Image.open(record.mask) as mask:
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), read_mask(raw, TASK)[place][:8, :8])
            assert record.labels == image_labels(np.asarray(mask), 3)
    # What was cut can be evaluated, and cut, again.
    assert len(read_annotated(result.folder, TASK, "folder")) == 24


def test_patches_are_enlarged_to_the_tile(crops: Path) -> None:
    small, large = (cut_patches(config(crops, output=crops.parent / str(px), tile_px=px)).folder for px in (8, 16))
    names = sorted(path.name for path in (small / "images").iterdir())
    assert names == sorted(path.name for path in (large / "images").iterdir())
    for name in names:
        with (
            Image.open(large / "images" / name) as image,
            Image.open(small / "masks" / name) as mask,
            Image.open(large / "masks" / name) as big,
        ):
            assert image.size == big.size == (16, 16)
            np.testing.assert_array_equal(np.asarray(big), np.asarray(mask).repeat(2, 0).repeat(2, 1))
    assert [json.loads((folder / "provenance.json").read_text())["mpp"] for folder in (small, large)] == [1.0, 0.5]


def test_no_image_is_in_training_and_in_the_test(crops: Path) -> None:
    annotated = read_annotated(crops, TASK, "crops")
    for fold in range(2):
        result = cut_patches(config(crops, output=crops.parent / str(fold), folds=2, fold=fold))
        held_out = select_part(annotated, result.folder / "split.json")
        cut = {path.name.split("_")[0] for path in (result.folder / "images").iterdir()}
        assert {image.image.stem for image in held_out} == {Path(name).stem for name in result.split.test}
        assert not cut & {image.image.stem for image in held_out}
        assert sorted(result.split.train + result.split.test) == [f"0{index}.png" for index in range(5)]


def test_provenance_says_where_patches_come_from(crops: Path) -> None:
    folder = cut_patches(config(crops, folds=2, fold=1, seed=5, max_patches=7)).folder
    provenance = json.loads((folder / "provenance.json").read_text())
    split = json.loads((folder / "split.json").read_text())
    assert provenance["sources"] == split["train"]
    assert provenance["held_out"] == split["test"]
    known = {"data": "crops", "format": "crops", "split": "all", "task": "wsss4luad", "folds": 2, "fold": 1, "seed": 5, "patches": 7}
    known |= {"patch_px": 8, "stride_px": 6, "tile_px": 8, "min_share": 0.01, "max_patches": 7}
    assert {key: provenance[key] for key in known} == known
    assert str(crops.parent) not in (folder / "provenance.json").read_text()


def test_a_draw_is_seeded(crops: Path) -> None:
    def names(output: str, seed: int) -> list[str]:
        folder = cut_patches(config(crops, output=crops.parent / output, max_patches=9, seed=seed)).folder
        return sorted(path.name for path in (folder / "images").iterdir())

    assert len(names("a", 0)) == 9
    assert names("b", 0) == names("c", 0) != names("d", 1)


def test_ignored_pixels_stay_ignored(tmp_path: Path) -> None:
    put_image(tmp_path / "folder" / "images" / "a.png", 20, 10)
    (tmp_path / "folder" / "masks").mkdir()
    save_mask(tmp_path / "folder" / "masks" / "a.png", blocks(1, 255, side_px=10), [tissue.color for tissue in TASK.classes])
    write_labels(tmp_path / "folder", TASK.class_names, [["a.png", 1, 0, 0]])
    result = cut_patches(config(tmp_path / "folder", data_format="folder"))
    found = {int(label) for image in read_annotated(result.folder, TASK, "folder") for label in np.unique(read_mask(image, TASK))}
    assert found == {1, 255}
    assert result.without_class == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_px": 0}, "--patch-px: expected at least 1, got 0"),
        ({"stride_px": 0}, "--stride-px: expected at least 1, got 0"),
        ({"tile_px": -1}, "--tile-px: expected at least 1, got -1"),
        ({"max_patches": 0}, "--max-patches: expected at least 1, got 0"),
        ({"stride_px": 9}, "--stride-px: expected at most the patch's 8 px, got 9: pixels would be lost"),
        ({"folds": 6}, "--folds: expected 1…5, the number of images, got 6"),
        ({"folds": 2, "fold": 2}, "--fold: expected 0…1, got 2"),
    ],
)
def test_options_that_make_no_sense(crops: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        cut_patches(config(crops, **changes))


def test_never_writes_into_what_is_there(crops: Path) -> None:
    (crops.parent / "patches").mkdir()
    with pytest.raises(DataError, match="patches: expected a folder that does not exist yet, found one"):
        cut_patches(config(crops))


def test_a_failed_cut_leaves_nothing(crops: Path) -> None:
    image = crops / "img" / "03.png"
    image.write_bytes(image.read_bytes()[:-60])  # its header is whole: the fault shows when it is cut
    with pytest.raises(DataError, match=r"03\.png: expected a readable image"):
        cut_patches(config(crops))
    assert [path.name for path in crops.parent.iterdir()] == ["crops"]


def test_glass_alone_is_refused(tmp_path: Path) -> None:
    put_pair(tmp_path / "crops", "a.png", blocks(3, 3, side_px=10))
    with pytest.raises(DataError, match="expected patches that hold a class of task 'wsss4luad', got 6 without any"):
        cut_patches(config(tmp_path / "crops"))


def test_the_command(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = crops.parent / "out" / "patches"
    flags = ["--data", str(crops), "--output", str(output), "--task", "wsss4luad", "--patch-px", "8", "--stride-px", "6"]
    assert main([*flags, "--folds", "5", "--fold", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"patches: {output}"
    assert lines[3] == "  images held out for the test: 1, named in split.json"
    assert main(flags) == 1
    assert capsys.readouterr().err.startswith(f"histoserve patches: {output}: expected a folder that does not exist yet")
    assert main([*flags, "--output", str(output / "more"), "--task", "lung"]) == 1
    assert "unknown task 'lung'" in capsys.readouterr().err


@pytest.mark.slide
@needs_data
def test_the_real_crops_in_three_folds(tmp_path: Path) -> None:
    """The yield of the research report (wsss.md §4), and one of the three crops with normal tissue in each fold (METHODS)."""
    crops = PatchesConfig(DATA / "wsss4luad", tmp_path / "0", "wsss4luad", folds=3)
    results = [cut_patches(dataclasses.replace(crops, output=tmp_path / str(fold), fold=fold)) for fold in range(3)]
    assert [sorted({"01.png", "03.png", "68.png"} & set(result.split.test)) for result in results] == [["01.png"], ["68.png"], ["03.png"]]
    assert sorted(len(result.split.test) for result in results) == [22, 22, 23]
    # Every crop trains in two folds of three.
    assert sum(result.patches + result.without_class for result in results) == 2 * 2340
