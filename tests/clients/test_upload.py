"""The order in which a slide's files arrive: at no moment does a reader take a half for the whole."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
import zarr

from clients.errors import OutputError
from clients.outputs import OutputOptions
from clients.segment import SegmentOptions, segment_slide
from clients.store_url import StoreFolder
from clients.upload import is_whole, upload_order, upload_slide

from .painted import paint, stripes, write_slide
from .painted_model import PaintedModel

STORE = "s.ome.zarr"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `segment` makes of a slide."""
    folder = tmp_path_factory.mktemp("slide")
    slide = write_slide(folder / "s.tiff", paint(stripes((400, 500))), 0.5)
    segment_slide(slide, PaintedModel(), folder / "out", SegmentOptions(), lambda done, total: None)
    return folder / "out"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_store_is_the_same_there(files: Path, tmp_path: Path) -> None:
    folder = StoreFolder(f"file://{tmp_path}/masks")
    assert not is_whole(folder, STORE)
    upload_slide(files, folder, STORE)
    assert is_whole(folder, STORE)
    assert contents(tmp_path / "masks") == contents(files)


def test_killed_at_any_file_nothing_that_can_be_opened_lacks_a_file(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each array that opens reads as the whole one does, whatever moment; the mask's root appears with the last file."""
    folder = StoreFolder(f"file://{tmp_path}/masks")
    put, opened = folder.put, []

    def look_then_put(file: Path, name: str) -> None:
        there = tmp_path / "masks" / STORE
        assert not (there / "zarr.json").exists()
        for metadata in there.rglob("zarr.json"):
            whole = files / STORE / metadata.parent.relative_to(there)
            assert contents(metadata.parent) == contents(whole)
            opened.append(metadata)
        put(file, name)

    monkeypatch.setattr(folder, "put", look_then_put)
    upload_slide(files, folder, STORE)
    assert len(opened) > 5
    zarr.open_group(tmp_path / "masks" / STORE, mode="r")


def test_the_order_for_both_versions_of_ngff() -> None:
    names = [
        "s.ome.zarr/zarr.json", "s.ome.zarr/.zattrs", "s.ome.zarr/.zgroup", "s.ome.zarr/0/.zarray", "s.ome.zarr/0/0/0", "s.summary.json",
        "s.ome.zarr/labels/t/0/zarr.json", "s.probabilities.ome.zarr/zarr.json", "s.ome.zarr/labels/zarr.json",
    ]  # fmt: skip
    assert upload_order(names, STORE) == (
        ["s.ome.zarr/0/0/0", "s.summary.json"],
        [
            "s.probabilities.ome.zarr/zarr.json", "s.ome.zarr/labels/t/0/zarr.json", "s.ome.zarr/0/.zarray", "s.ome.zarr/labels/zarr.json",
            "s.ome.zarr/.zgroup", "s.ome.zarr/.zattrs", "s.ome.zarr/zarr.json",
        ],
    )  # fmt: skip


def test_another_mask_is_gone_before_this_one_comes(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = tmp_path / "masks"
    folder = StoreFolder(f"file://{masks}")
    (masks / STORE / "9").mkdir(parents=True)
    for name in ("zarr.json", "9/zarr.json", "9/c"):
        (masks / STORE / name).write_text("old")
    removed: list[str] = []
    remove = folder.remove

    def note_and_remove(name: str) -> None:
        removed.append(name)
        remove(name)

    monkeypatch.setattr(folder, "remove", note_and_remove)
    upload_slide(files, folder, STORE)
    assert removed == ["s.ome.zarr/zarr.json", "s.ome.zarr/9/zarr.json", "s.ome.zarr/9/c"]
    assert contents(masks) == contents(files)


def test_a_store_that_lost_a_file_gets_no_root(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = StoreFolder(f"file://{tmp_path}/masks")
    put = folder.put

    def lose(file: Path, name: str) -> None:
        if not name.endswith("/c/0/0/0"):
            put(file, name)

    monkeypatch.setattr(folder, "put", lose)
    with pytest.raises(OutputError, match=r"files as they were sent, \d+ are missing or of another size, e\.g\. s\.ome\.zarr/0/c/0/0/0"):
        upload_slide(files, folder, STORE)
    assert not is_whole(folder, STORE)


def test_ngff_0_4_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = write_slide(tmp_path / "s.tiff", paint(stripes((400, 500))), 0.5)
    segment_slide(slide, PaintedModel(), tmp_path / "out", SegmentOptions(outputs=OutputOptions(ngff="0.4")), lambda done, total: None)
    folder = StoreFolder(f"memory://{uuid4().hex}")
    order: list[str] = []
    put = folder.put

    def note_and_put(file: Path, name: str) -> None:
        order.append(name)
        put(file, name)

    monkeypatch.setattr(folder, "put", note_and_put)
    upload_slide(tmp_path / "out", folder, STORE)
    assert order[-1] == "s.ome.zarr/.zattrs"
    assert is_whole(folder, STORE)
    assert folder.list_files("") == {name: len(data) for name, data in contents(tmp_path / "out").items()}
