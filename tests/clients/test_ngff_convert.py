"""The same mask in OME-NGFF 0.4: valid, equal in pixels and place, opened by other people's reader, and never half there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v04 import Image, ImageLabel, Labels

from clients.label_store import open_label
from clients.ngff_convert import convert_to_04
from clients.omezarr import STRIP_PX, LabelWriter
from serving.tasks import get_task

SHAPE = (2100, 1101)
TASK = get_task("demo")
LABELS = np.random.default_rng(0).integers(0, 5, SHAPE, dtype=np.uint8)
THUMBNAIL = np.random.default_rng(1).integers(0, 256, (525, 276, 3), dtype=np.uint8)


def write(store: Path) -> Path:
    writer = LabelWriter(store, TASK, SHAPE, (0.5, 0.51), {"release": "r"})
    for top in range(0, SHAPE[0], STRIP_PX):
        writer.write(top, LABELS[top : top + STRIP_PX])
    writer.finish(THUMBNAIL, 4)
    writer.publish()
    return store


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("new") / "s.ome.zarr")


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = write(tmp_path_factory.mktemp("old") / "s.ome.zarr")
    convert_to_04(store)
    return store


def test_is_valid(old: Path) -> None:
    image = Image.from_zarr(zarr.open_group(old, mode="r", zarr_format=2))
    label = ImageLabel.from_zarr(zarr.open_group(old / "labels/demo", mode="r", zarr_format=2))
    assert Labels.from_zarr(zarr.open_group(old / "labels", mode="r", zarr_format=2)).attributes.labels == ["demo"]
    assert image.attributes.multiscales[0].version == label.attributes.multiscales[0].version == "0.4"
    assert label.attributes.image_label.version == "0.4"
    colors = {color.label_value: color.rgba for color in label.attributes.image_label.colors or ()}
    assert colors[1] == (*TASK.classes[0].color, 255)


def test_says_the_same_as_the_05_store(old: Path, new: Path) -> None:
    old_label, new_label = open_label(old), open_label(new)
    assert (old_label.name, old_label.mpp) == (new_label.name, new_label.mpp)
    assert (old_label.version, new_label.version) == ("0.4", "0.5")
    for group in ("", "labels/demo"):
        before: Any = dict(zarr.open_group(new / group, mode="r").attrs)
        after: Any = dict(zarr.open_group(old / group, mode="r").attrs)
        assert after["multiscales"][0]["datasets"] == before["ome"]["multiscales"][0]["datasets"]
        assert after["multiscales"][0]["axes"] == before["ome"]["multiscales"][0]["axes"]
        assert after.get("histoserve") == before.get("histoserve")
        for dataset in after["multiscales"][0]["datasets"]:
            converted, original = (np.asarray(zarr.open_array(store / group / dataset["path"], mode="r")[:]) for store in (old, new))
            np.testing.assert_array_equal(converted, original)


def test_is_opened_by_the_reference_reader(old: Path) -> None:
    location = parse_url(old)
    assert location is not None
    image, label = list(Reader(location)())[0::2][0], next(node for node in Reader(location)() if "demo" in str(node.zarr))
    np.testing.assert_array_equal(np.asarray(image.data[0]), THUMBNAIL.transpose(2, 0, 1))
    np.testing.assert_array_equal(np.asarray(label.data[0]), LABELS)
    assert label.metadata["coordinateTransformations"][0][0]["scale"] == [0.51, 0.5]
    assert label.metadata["properties"][1]["class"] == "tumor"


def test_has_the_keys_that_old_readers_look_for(old: Path) -> None:
    array = json.loads((old / "labels/demo/0/.zarray").read_text())
    assert array["dimension_separator"] == "/"
    assert array["compressor"]["id"] == "zlib"
    assert array["chunks"] == [1024, 1024]
    assert (old / "labels/demo/0/2/1").is_file()
    assert json.loads((old / "labels/.zattrs").read_text()) == {"labels": ["demo"]}
    assert not list(old.rglob("zarr.json"))


def test_twice_is_once_and_nothing_else_stays(tmp_path: Path) -> None:
    store = write(tmp_path / "s.ome.zarr")
    (tmp_path / ".s.ome.zarr.v2.partial").mkdir()  # of one that was killed
    convert_to_04(store)
    written = (store / ".zattrs").stat().st_mtime_ns
    convert_to_04(store)
    assert (store / ".zattrs").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["s.ome.zarr"]


def test_a_failure_leaves_the_05_store(tmp_path: Path) -> None:
    store = write(tmp_path / "s.ome.zarr")
    shard = next(path for path in (store / "labels/demo/1").rglob("*") if path.is_file() and path.name != "zarr.json")
    shard.write_bytes(b"broken")
    with pytest.raises(Exception, match=r".+"):  # zarr's own, of whatever kind
        convert_to_04(store)
    assert open_label(store).version == "0.5"
    assert [path.name for path in tmp_path.iterdir()] == ["s.ome.zarr"]
