"""The store: valid NGFF, where it lies, what is in its pyramid, and that a half-written one never bears the name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from clients.errors import OutputError
from clients.omezarr import STRIP_PX, LabelWriter, level_count, read_label
from serving.tasks import get_task

SHAPE = (2100, 1101)
TASK = get_task("demo")
LABELS = np.random.default_rng(0).integers(0, 5, SHAPE, dtype=np.uint8)
THUMBNAIL = np.random.default_rng(1).integers(0, 256, (525, 276, 3), dtype=np.uint8)


def write(store: Path, *, overwrite: bool = False, labels: np.ndarray = LABELS) -> None:
    with LabelWriter(store, TASK, SHAPE, (0.5, 0.51), {"release": "r"}, overwrite) as writer:
        for top in range(0, SHAPE[0], STRIP_PX):
            writer.write(top, labels[top : top + STRIP_PX])
        writer.finish(THUMBNAIL, 4)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "s.ome.zarr"
    write(path)
    return path


def test_is_valid_ngff(store: Path) -> None:
    root, label = zarr.open_group(store, mode="r"), zarr.open_group(store / "labels/demo", mode="r")
    image, image_label = Image.from_zarr(root), ImageLabel.from_zarr(label)
    assert Labels.from_zarr(zarr.open_group(store / "labels", mode="r")).attributes.ome.labels == ["demo"]
    assert len(image.attributes.ome.multiscales[0].datasets) == len(image_label.attributes.ome.multiscales[0].datasets) == 4
    label_metadata = image_label.attributes.ome.image_label
    assert label_metadata is not None
    colors = label_metadata.colors or ()
    assert {color.label_value: color.rgba for color in colors} == {
        0: (0, 0, 0, 0),
        **{index: (*tissue.color, 255) for index, tissue in enumerate(TASK.classes, start=1)},
    }


def test_image_and_mask_lie_on_each_other(store: Path) -> None:
    """The center of the outermost pixels in micrometers, from the metadata alone."""

    def corner(group: Path, level: int) -> list[float]:
        ome: Any = zarr.open_group(group, mode="r").attrs["ome"]
        scale, translation = (
            step[kind]
            for step, kind in zip(
                ome["multiscales"][0]["datasets"][level]["coordinateTransformations"], ("scale", "translation"), strict=True
            )
        )
        return [offset - size / 2 for offset, size in zip(translation[-2:], scale[-2:], strict=True)]

    for level in range(4):
        np.testing.assert_allclose(corner(store / "labels/demo", level), [-0.255, -0.25])
        np.testing.assert_allclose(corner(store, level), [-0.255, -0.25])


def test_the_pyramid_holds_only_labels_that_exist(store: Path) -> None:
    group = zarr.open_group(store / "labels/demo", mode="r")
    for level in range(4):
        array: Any = group[str(level)]
        np.testing.assert_array_equal(array[:], LABELS[:: 2**level, :: 2**level])
    assert group.attrs["histoserve"] == {"release": "r"}


def test_the_image_is_the_slide_s(store: Path) -> None:
    array: Any = zarr.open_group(store, mode="r")["0"]
    np.testing.assert_array_equal(array[:], THUMBNAIL.transpose(2, 0, 1))


def test_read_back(store: Path) -> None:
    label = read_label(store)
    np.testing.assert_array_equal(label.labels, LABELS)
    assert label.class_names == TASK.class_names
    assert label.mpp == (0.5, 0.51)


def test_a_mask_that_is_there_is_kept_unless_asked(tmp_path: Path) -> None:
    store = tmp_path / "s.ome.zarr"
    write(store)
    with pytest.raises(OutputError, match=r"s\.ome\.zarr: .*--overwrite"):
        write(store)
    write(store, overwrite=True, labels=LABELS[::-1].copy())
    np.testing.assert_array_equal(read_label(store).labels, LABELS[::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["s.ome.zarr"]


def test_an_interrupted_one_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    store = tmp_path / "s.ome.zarr"
    write(store)
    with LabelWriter(store, TASK, SHAPE, (0.5, 0.5), {}, True) as writer:
        writer.write(0, LABELS[:STRIP_PX] * 0)  # and then nothing: what an error in the block amounts to
    np.testing.assert_array_equal(read_label(store).labels, LABELS)
    assert [path.name for path in tmp_path.iterdir()] == ["s.ome.zarr"]


def test_one_that_was_killed_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".s.ome.zarr.partial" / "labels").mkdir(parents=True)
    write(tmp_path / "s.ome.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["s.ome.zarr"]


def test_refuses_what_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="found no such folder"):
        read_label(tmp_path / "absent.ome.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(OutputError, match=r"other\.zarr: expected an OME-Zarr"):
        read_label(tmp_path / "other.zarr")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="give another --output"):
        LabelWriter(blocked / "s.ome.zarr", TASK, SHAPE, (0.5, 0.5), {}, False)


@pytest.mark.parametrize(("side", "count"), [(1, 1), (512, 1), (513, 2), (1024, 2), (1025, 3), (100_000, 9)])
def test_levels_halve_until_one_chunk(side: int, count: int) -> None:
    assert level_count(side) == count


def test_an_image_of_another_task_names_its_own_classes(tmp_path: Path) -> None:
    task = dataclasses.replace(get_task("glas"))
    with LabelWriter(tmp_path / "g.ome.zarr", task, (40, 50), (1.0, 1.0), {}, False) as writer:
        writer.write(0, np.ones((40, 50), np.uint8))
        writer.finish(np.zeros((40, 50, 3), np.uint8), 1)
    assert read_label(tmp_path / "g.ome.zarr").class_names == ("gland", "stroma")
