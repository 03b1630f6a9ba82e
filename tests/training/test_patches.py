"""Folders of patches: what is written, what is read, and what is said of a folder that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from serving.tasks import get_task
from training.errors import DataError
from training.patches import LABELS_FILE, image_labels, read_folder, write_patches

NAMES = get_task("demo").class_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "patches"
    write_patches(path, 12, seed=1, processes=2)
    return path


def test_labels_say_what_the_masks_hold(folder: Path) -> None:
    records = read_folder(folder, NAMES)
    assert [record.image.name for record in records] == [f"{index:05d}.png" for index in range(12)]
    for record in records:
        assert record.mask is not None
        with Image.open(record.image) as image, Image.open(record.mask) as mask:
            assert (image.size, image.mode, mask.size, mask.mode) == ((224, 224), "RGB", (224, 224), "P")
            labels = np.asarray(mask)
        assert record.labels == tuple(int((labels == index).mean() > 0.01) for index in range(1, 5))
    assert len({record.labels for record in records}) > 3


def test_masks_show_the_task_s_colors(folder: Path) -> None:
    with Image.open(folder / "masks" / "00000.png") as mask:
        palette = mask.getpalette()
    assert palette is not None
    assert palette[:15] == [255, 255, 255, *(c for tissue in get_task("demo").classes for c in tissue.color)]


def test_another_seed_gives_other_patches(folder: Path, tmp_path: Path) -> None:
    write_patches(tmp_path / "other", 2, seed=2, processes=1)
    ours = {path.read_bytes() for path in (folder / "images").iterdir()}
    assert not ours & {path.read_bytes() for path in (tmp_path / "other" / "images").iterdir()}


def test_one_percent_is_the_limit() -> None:
    mask = np.zeros((10, 100), np.uint8)
    mask[0, :10] = 1  # exactly 1 %: not more
    mask[0, 10:21] = 3
    assert image_labels(mask, 4) == (0, 0, 1, 0)


def test_never_writes_into_what_is_there(folder: Path) -> None:
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(DataError, match="expected a folder that does not exist yet"):
        write_patches(folder, 1, seed=1)
    assert sorted(path.name for path in folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the header image,tumor,gland,stroma,necrosis, got "),
        ("image,tumor\na.png,1\n", "expected the header image,tumor,gland,stroma,necrosis, got image,tumor"),
        ("image,tumor,gland,stroma,necrosis\n", "expected a row for every image, got none"),
        ("image,tumor,gland,stroma,necrosis\na.png,1,0,0\n", "line 2: expected an image name and 4 values of 0 or 1, got a.png,1,0,0"),
        ("image,tumor,gland,stroma,necrosis\na.png,1,0,0,2\n", "line 2: expected an image name and 4 values of 0 or 1"),
        ("image,tumor,gland,stroma,necrosis\na.png,1,0,0,0\nb.png,1,0,0,0\n", "line 3: expected the image"),
    ],
)
def test_names_the_line_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    (tmp_path / LABELS_FILE).write_text(content)
    with pytest.raises(DataError) as raised:
        read_folder(tmp_path, NAMES)
    assert message in str(raised.value)
    assert str(tmp_path / LABELS_FILE) in str(raised.value)


def test_masks_are_optional_and_labels_are_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv: expected image-level labels there, found no file"):
        read_folder(tmp_path, NAMES)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / LABELS_FILE).write_text("image,tumor,gland,stroma,necrosis\na.jpg,0,1,0,0\n")
    (record,) = read_folder(tmp_path, NAMES)
    assert (record.labels, record.mask) == ((0, 1, 0, 0), None)
