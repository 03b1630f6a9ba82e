"""Every published layout, built small, is read as it was published; one that is not says which file, what was expected and what came."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import TissueTask
from serving.tasks import get_task
from training.datasets import bcss, luad, wsss4luad
from training.datasets.catalog import read_annotated, read_mask, read_training
from training.errors import DataError
from training.patches import LABELS_FILE, save_mask

from .trees import blocks, put_image, put_mask, put_pair

DATA = Path(__file__).parents[3].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data (../shared/data) is not here")

BCSS, LUAD, WSSS4LUAD, GLAS, DEMO = (get_task(name) for name in ("bcss", "luad", "wsss4luad", "glas", "demo"))
NAMES: dict[str, dict[str, tuple[int, ...]]] = {  # format: {published name: labels}
    "bcss": {
        "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101].png": (1, 1, 0, 1),
        "TCGA-GM-A2DD-DX1_xmin47260_ymin22408_MPP-0.2500+247[0010].png": (0, 0, 1, 0),
        "TCGA-GM-A2DD-DX1_xmin47260_ymin22408_MPP-0.2500+[0011].png": (0, 0, 1, 1),
    },
    "luad": {"1031280-2300-27920-[1 0 0 1].png": (1, 0, 0, 1), "387709-25723-29920-[0 1 0 0].png": (0, 1, 0, 0)},
    "wsss4luad": {"436219-9328-56427-[1, 1, 0].png": (1, 1, 0), "449636-23526-9666-[0, 0, 1].png": (0, 0, 1)},
}
TRAINING = [
    ("bcss", "training"),
    ("bcss", "train"),
    ("bcss", "train/img"),
    ("luad", "training"),
    ("luad", "train"),
    ("wsss4luad", "1.training"),
]
SPLITS: list[tuple[str, str, str]] = [
    *(("bcss", split, folder) for split, folder in (("val", "val"), ("val", "valid"), ("test", "test"))),
    *(("luad", split, folder) for split, folder in (("val", "val"), ("test", "test"))),
    *(("wsss4luad", split, folder) for split, folder in (("val", "2.validation"), ("test", "3.testing"))),
    *(("glas", split, split) for split in ("train", "val", "testA")),
    ("crops", "all", "."),
    ("crops", "test", "test"),
]


def task_of(data_format: str) -> TissueTask:
    return WSSS4LUAD if data_format == "crops" else get_task(data_format)


@pytest.mark.parametrize(("data_format", "folder"), TRAINING)
def test_training_labels_are_in_the_names(tmp_path: Path, data_format: str, folder: str) -> None:
    for name in NAMES[data_format]:
        put_image(tmp_path / folder / name)
    (tmp_path / folder / ".DS_Store").touch()  # what a file manager leaves is no patch
    (tmp_path / folder / "Thumbs.db").touch()
    records = read_training(tmp_path, get_task(data_format), data_format)
    assert {record.image.name: record.labels for record in records} == NAMES[data_format]
    assert [record.image for record in records] == sorted((tmp_path / folder).glob("*.png"))
    assert {record.mask for record in records} == {None}


@pytest.mark.parametrize(
    ("data_format", "name"),
    [
        ("bcss", "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[110].png"),
        ("bcss", "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[11010].png"),
        ("bcss", "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1 1 0 1].png"),
        ("bcss", "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1121].png"),
        ("bcss", "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0.png"),
        ("bcss", "TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101].jpg"),
        ("luad", "1031280-2300-27920-[1001].png"),
        ("luad", "1031280-2300-27920-[1 0 0].png"),
        ("luad", "1031280-2300-27920-[1, 0, 0, 1].png"),
        ("luad", "1031280-2300-27920-[1 0 0 1] (copy).png"),
        ("wsss4luad", "436219-9328-56427-[1 1 0].png"),
        ("wsss4luad", "436219-9328-56427-[1, 1].png"),
        ("wsss4luad", "436219-9328-56427-[1, 1, 0, 0].png"),
        ("wsss4luad", "readme.txt"),
    ],
)
def test_a_name_that_is_not_as_published_stops_the_reading(tmp_path: Path, data_format: str, name: str) -> None:
    folder = tmp_path / {"wsss4luad": "1.training"}.get(data_format, "training")
    good = next(iter(NAMES[data_format]))
    put_image(folder / good)
    (folder / name).write_bytes(b"")
    with pytest.raises(DataError) as raised:
        read_training(tmp_path, get_task(data_format), data_format)
    message = str(raised.value)
    assert message.startswith(f"{folder / name}: expected a training patch named like {good!r}, labels in brackets, got {name!r}")
    assert "take the file away" in message


@given(labels=st.tuples(*[st.integers(0, 1)] * 4), stem=st.text("TCGA0123456789-_.", min_size=1))
def test_digits_are_classes_in_order(labels: tuple[int, ...], stem: str) -> None:
    assert bcss.BCSS.parse_labels(Path(f"{stem}+7[{''.join(map(str, labels))}].png")) == labels
    assert luad.LUAD.parse_labels(Path(f"{stem}-[{' '.join(map(str, labels))}].png")) == labels
    assert wsss4luad.WSSS4LUAD.parse_labels(Path(f"{stem}-[{', '.join(map(str, labels[:3]))}].png")) == labels[:3]


def test_a_patch_without_any_class_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("1-2-3-[1 0 0 0].png", "1-2-4-[0 0 0 0].png", "1-2-5-[0 0 0 0].png"):
        put_image(tmp_path / "training" / name)
    with caplog.at_level(logging.WARNING):
        (record,) = read_training(tmp_path, LUAD, "luad")
    assert record.labels == (1, 0, 0, 0)
    assert caplog.messages == [f"{tmp_path / 'training'}: left out 2 of 3 patches, which hold no class"]
    record.image.unlink()
    with pytest.raises(DataError, match="expected patches that hold a class, got 2 without any"):
        read_training(tmp_path, LUAD, "luad")


def test_the_generic_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.jpg", "c.png"):
        put_image(tmp_path / "images" / name)
    (tmp_path / LABELS_FILE).write_text("image,gland,stroma\na.png,1,0\nb.jpg,1,1\nc.png,0,0\n")
    assert [record.labels for record in read_training(tmp_path, GLAS, "folder")] == [(1, 0), (1, 1)]
    assert "left out 1 of 3 patches" in caplog.text
    with pytest.raises(DataError, match=r"a\.png: expected its mask .*a\.png, found no file"):
        read_annotated(tmp_path, GLAS, "folder")


def test_masks_of_a_generic_folder_hold_labels_already(tmp_path: Path) -> None:
    put_image(tmp_path / "images" / "a.png", 16, 4)
    (tmp_path / "masks").mkdir()
    save_mask(tmp_path / "masks" / "a.png", blocks(0, 1, 2, 255), [(1, 1, 1), (2, 2, 2)])
    (tmp_path / LABELS_FILE).write_text("image,gland,stroma\na.png,1,1\n")
    (annotated,) = read_annotated(tmp_path, GLAS, "folder")
    np.testing.assert_array_equal(read_mask(annotated, GLAS), blocks(0, 1, 2, 255))
    save_mask(tmp_path / "masks" / "a.png", blocks(0, 1, 2, 3), [(1, 1, 1)])
    with pytest.raises(DataError, match="expected the indices 0, 1, 2, 255 of task 'glas', got 3 in 16 px"):
        read_mask(annotated, GLAS)


@pytest.mark.parametrize(("data_format", "split", "folder"), SPLITS)
def test_splits_pair_images_with_masks(tmp_path: Path, data_format: str, split: str, folder: str) -> None:
    task = task_of(data_format)
    raw = [index for index, _ in task.label_encoding]
    for name in ("01.png", "00.png"):
        put_pair(tmp_path / folder, name, blocks(*raw), None if data_format == "glas" else (255, 0, 0))
    pairs = read_annotated(tmp_path, task, data_format, split)
    assert [(pair.image.name, pair.mask.name) for pair in pairs] == [("00.png", "00.png"), ("01.png", "01.png")]
    mask = read_mask(pairs[0], task)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, blocks(*(label for _, label in task.label_encoding)))


def test_published_indices() -> None:
    assert dict(BCSS.label_encoding) == dict(LUAD.label_encoding) == {0: 1, 1: 2, 2: 3, 3: 4, 4: 0}
    assert (dict(WSSS4LUAD.label_encoding), dict(GLAS.label_encoding)) == ({0: 1, 1: 2, 2: 3, 3: 0}, {255: 1, 0: 2})


def test_an_unknown_index_is_counted_and_named(tmp_path: Path) -> None:
    put_pair(tmp_path, "a.png", blocks(0, 4, 3, 9))
    (pair,) = read_annotated(tmp_path, WSSS4LUAD, "crops")
    with pytest.raises(DataError) as raised:
        read_mask(pair, WSSS4LUAD)
    assert str(raised.value) == (
        f"{tmp_path / 'mask' / 'a.png'}: expected the indices 0, 1, 2, 3 of task 'wsss4luad', got 4, 9 in 32 px: "
        "choose the task that the mask was drawn for"
    )


def test_a_mask_of_another_size_names_both_files(tmp_path: Path) -> None:
    put_image(tmp_path / "img" / "a.png", 9, 4)
    put_mask(tmp_path / "mask" / "a.png", blocks(0, 1))
    (pair,) = read_annotated(tmp_path, WSSS4LUAD, "crops")
    with pytest.raises(DataError, match=r"mask.a\.png: expected 9×4 px, the size of .*img.a\.png, got 8×4"):
        read_mask(pair, WSSS4LUAD)


@pytest.mark.parametrize("which", ["img", "mask"])
def test_files_that_are_no_images(tmp_path: Path, which: str) -> None:
    put_pair(tmp_path, "a.png", blocks(0, 1))
    (pair,) = read_annotated(tmp_path, WSSS4LUAD, "crops")
    broken = tmp_path / which / "a.png"
    for content in (b"no image", b"", broken.read_bytes()[:40]):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=rf"{which}.a\.png: expected a readable image"):
            read_mask(pair, WSSS4LUAD)
    broken.unlink()
    with pytest.raises(DataError, match=rf"{which}.a\.png: expected an image, found no file"):
        read_mask(pair, WSSS4LUAD)


def test_a_mask_in_colors_is_refused(tmp_path: Path) -> None:
    put_pair(tmp_path, "a.png", blocks(0, 1))
    put_image(tmp_path / "mask" / "a.png", 8, 4)
    (pair,) = read_annotated(tmp_path, WSSS4LUAD, "crops")
    with pytest.raises(DataError, match=r"expected a label image .* got mode RGB: save the class indices, not their colors"):
        read_mask(pair, WSSS4LUAD)


def test_images_and_masks_that_are_left_over(tmp_path: Path) -> None:
    put_pair(tmp_path, "a.png", blocks(0, 1))
    put_mask(tmp_path / "mask" / "b.png", blocks(0))
    with pytest.raises(DataError, match=r"mask.b\.png: expected an image of that name in .*img, found none"):
        read_annotated(tmp_path, WSSS4LUAD, "crops")
    put_image(tmp_path / "img" / "c.png")
    with pytest.raises(DataError, match=r"img.c\.png: expected its mask .*c\.png, found no file"):
        read_annotated(tmp_path, WSSS4LUAD, "crops")
    put_image(tmp_path / "img" / "a.jpg")
    with pytest.raises(DataError, match=r"img.a\.png: expected one image per mask, a\.jpg has the same stem"):
        read_annotated(tmp_path, WSSS4LUAD, "crops")


def test_folders_that_are_not_as_published(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: expected the data set's folder, found none"):
        read_training(tmp_path / "nowhere", BCSS, "bcss")
    with pytest.raises(DataError, match="expected a folder training or train with training patches, found nothing"):
        read_training(tmp_path, BCSS, "bcss")
    (tmp_path / "training").mkdir()
    with pytest.raises(DataError, match="training: expected training patches, found an empty folder"):
        read_training(tmp_path, BCSS, "bcss")
    (tmp_path / "training" / "more").mkdir()
    with pytest.raises(DataError, match=r"more: expected training patches alone in .*training, found a folder"):
        read_training(tmp_path, BCSS, "bcss")
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="expected one folder with training patches, found training and train"):
        read_training(tmp_path, BCSS, "bcss")
    with pytest.raises(DataError, match=r"expected a folder 1\.training with training patches, found train, training"):
        read_training(tmp_path, WSSS4LUAD, "wsss4luad")
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="img: expected a folder of images, found none"):
        read_annotated(tmp_path, BCSS, "bcss", "test")


def test_splits_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a split with masks \(val, test\), got 'train'"):
        read_annotated(tmp_path, BCSS, "bcss", "train")
    with pytest.raises(DataError, match=r"expected one of its splits \(it has none\), got 'test'"):
        read_annotated(tmp_path, WSSS4LUAD, "crops", "test")
    with pytest.raises(DataError, match=r"expected one of its splits \(it has none\), got 'val'"):
        read_annotated(tmp_path, GLAS, "glas", "val")
    with pytest.raises(DataError, match="nowhere: expected the data set's folder, found none"):
        read_annotated(tmp_path / "nowhere", GLAS, "glas", "val")


def test_another_task_s_classes_are_refused(tmp_path: Path) -> None:
    """Four digits fit BCSS and LUAD alike: read by position, stroma would become necrosis."""
    for read in (read_training, read_annotated):
        with pytest.raises(DataError, match=r"format 'bcss' has the classes tumor, stroma, .* choose task 'bcss'"):
            read(tmp_path, LUAD, "bcss")
    with pytest.raises(DataError, match="format 'glas' has the classes gland, stroma, task 'demo' has tumor"):
        read_annotated(tmp_path, DEMO, "glas", "train")


def test_formats_that_there_are_not(tmp_path: Path) -> None:
    for read in (read_training, read_annotated):
        with pytest.raises(DataError, match="unknown data format 'coco': expected one of folder, bcss, luad, wsss4luad, glas, crops"):
            read(tmp_path, LUAD, "coco")
    with pytest.raises(DataError, match="format 'crops' has masks, no image-level labels: cut it with `histoserve patches`"):
        read_training(tmp_path, WSSS4LUAD, "crops")


@pytest.mark.slide
@needs_data
def test_the_real_crops_and_glands() -> None:
    crops = read_annotated(DATA / "wsss4luad", WSSS4LUAD, "crops")
    assert len(crops) == 67
    shares = {crop.image.name: (read_mask(crop, WSSS4LUAD) == 3).mean() for crop in crops}
    assert [name for name, share in shares.items() if share > 0.01] == ["01.png", "03.png", "68.png"]
    for split, count in (("train", 75), ("val", 10)):
        glands = read_annotated(DATA / "glas", GLAS, "glas", split)
        assert len(glands) == count
        assert set(np.unique(read_mask(glands[0], GLAS))) == {1, 2}


@pytest.mark.slide
@needs_data
def test_the_real_names_of_training_patches(tmp_path: Path) -> None:
    (tmp_path / "1.training").symlink_to(DATA / "wsss4luad" / "train_examples")
    labels = [record.labels for record in read_training(tmp_path, WSSS4LUAD, "wsss4luad")]
    assert labels == [(0, 1, 0), (1, 0, 0), (1, 1, 0), (0, 0, 1)]
