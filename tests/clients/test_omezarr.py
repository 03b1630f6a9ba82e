"""The store: valid NGFF, where it lies, what is in its pyramid, and that a half-written one never bears the name."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image, ImageLabel, Labels

import clients.unfinished
from clients.errors import OutputError
from clients.omezarr import STRIP_PX, LabelWriter, level_count, read_label, read_notes
from clients.unfinished import unfinished_files, unfinished_path
from serving.tasks import get_task

SHAPE = (2100, 1101)
TASK = get_task("demo")
LABELS = np.random.default_rng(0).integers(0, 5, SHAPE, dtype=np.uint8)
THUMBNAIL = np.random.default_rng(1).integers(0, 256, (525, 276, 3), dtype=np.uint8)


def start(store: Path, kept: dict[str, int] | None = None) -> LabelWriter:
    return LabelWriter(store, TASK, SHAPE, (0.5, 0.51), {"release": "r"}, kept)


def write(store: Path, labels: np.ndarray = LABELS) -> None:
    writer = start(store)
    for top in range(0, SHAPE[0], STRIP_PX):
        writer.write(top, labels[top : top + STRIP_PX])
    writer.finish(THUMBNAIL, 4)
    writer.publish()


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


def test_a_store_that_has_the_name_is_replaced_whole(tmp_path: Path) -> None:
    store = tmp_path / "s.ome.zarr"
    write(store)
    writer = start(store)
    writer.write(0, LABELS[:STRIP_PX] * 0)
    np.testing.assert_array_equal(read_label(store).labels, LABELS)  # until `publish` the old one is there
    write(store, LABELS[::-1].copy())
    np.testing.assert_array_equal(read_label(store).labels, LABELS[::-1])
    assert [path.name for path in tmp_path.iterdir()] == ["s.ome.zarr"]


def test_strips_that_are_kept_need_not_be_written_again_and_nothing_else_is_kept(tmp_path: Path, store: Path) -> None:
    again = tmp_path / "s.ome.zarr"
    first = start(again)
    first.write(0, LABELS[:STRIP_PX])
    finished = first.files
    first.write(STRIP_PX, LABELS[STRIP_PX : 2 * STRIP_PX][::-1])  # wrong, and not told of
    first.finish(THUMBNAIL, 4)
    left = unfinished_path(again) / "labels" / "demo" / "0" / "c" / "0" / "0.0123.partial"  # zarr, killed while it wrote
    left.write_text("half")
    assert set(finished) < set(unfinished_files(again))
    second = start(again, finished)
    assert (
        set(finished)
        < set(unfinished_files(again))
        == {*finished, "zarr.json", "labels/zarr.json", "labels/demo/zarr.json"} | {"labels/demo/0/zarr.json"}
    )
    for top in (STRIP_PX, 2 * STRIP_PX):
        second.write(top, LABELS[top : top + STRIP_PX])
    second.finish(THUMBNAIL, 4)
    second.publish()
    assert contents(again) == contents(store)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_strips_are_told_once_they_are_written(tmp_path: Path) -> None:
    writer = start(tmp_path / "s.ome.zarr")
    assert writer.files == {}
    writer.write(0, LABELS[:STRIP_PX])
    assert list(writer.files) == ["labels/demo/0/c/0/0"]
    writer.write(STRIP_PX, LABELS[STRIP_PX : 2 * STRIP_PX] * 0)  # nothing but background has no file
    assert list(writer.files) == ["labels/demo/0/c/0/0"]
    for name, size in writer.files.items():
        assert (unfinished_path(tmp_path / "s.ome.zarr") / name).stat().st_size == size


def test_a_full_disk_is_told_in_our_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = start(tmp_path / "s.ome.zarr")

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(clients.unfinished, "sync_file", full)
    with pytest.raises(OutputError, match=r"s\.ome\.zarr: .*No space left on device.*free some room"):
        writer.write(0, LABELS[:STRIP_PX])


def test_notes_are_read_back(store: Path, tmp_path: Path) -> None:
    assert read_notes(store) == {"release": "r"}
    with pytest.raises(OutputError, match="cannot read its notes"):
        read_notes(tmp_path)


def test_refuses_what_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="found no such folder"):
        read_label(tmp_path / "absent.ome.zarr")
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(OutputError, match=r"other\.zarr: expected an OME-Zarr"):
        read_label(tmp_path / "other.zarr")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OutputError, match="give another --output"):
        LabelWriter(blocked / "s.ome.zarr", TASK, SHAPE, (0.5, 0.5), {})


@pytest.mark.parametrize(("side", "count"), [(1, 1), (512, 1), (513, 2), (1024, 2), (1025, 3), (100_000, 9)])
def test_levels_halve_until_one_chunk(side: int, count: int) -> None:
    assert level_count(side) == count


def test_an_image_of_another_task_names_its_own_classes(tmp_path: Path) -> None:
    task = dataclasses.replace(get_task("glas"))
    writer = LabelWriter(tmp_path / "g.ome.zarr", task, (40, 50), (1.0, 1.0), {})
    writer.write(0, np.ones((40, 50), np.uint8))
    writer.finish(np.zeros((40, 50, 3), np.uint8), 1)
    writer.publish()
    assert read_label(tmp_path / "g.ome.zarr").class_names == ("gland", "stroma")
