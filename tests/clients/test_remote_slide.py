"""`segment` with a store as its output: what is there, what is skipped, what an interrupted run leaves and takes up again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

import clients.store_url
from clients.cli import main
from clients.errors import OutputError
from clients.remote_slide import default_scratch
from clients.store_url import StoreFolder

from .fake_triton import MODEL, FakeTriton
from .painted import contract, paint, stripes, write_slide

SHAPE = (300, 420)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.store_url, "_WAITS_S", ())


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with FakeTriton(contract()) as started:
        yield started


@pytest.fixture
def url() -> str:
    return f"memory://{uuid4().hex}/masks"


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        write_slide(folder / f"{name}.tiff", paint(stripes(SHAPE)), 0.5)
    return folder


def contents(folder: StoreFolder, into: Path) -> dict[str, bytes]:
    """All files of a store, by way of this machine."""
    for name in folder.list_files(""):
        folder.get(name, into / name)
    return {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}


def run(server: FakeTriton, slides: Path, url: str, *more: str) -> int:
    return main([str(slides), "--server", server.address, "--model", MODEL, "--output", url, *more])


def states(folder: StoreFolder, into: Path) -> dict[str, str]:
    folder.get("batch.json", into)
    return {entry["slide"]: entry["state"] for entry in json.loads(into.read_text())["slides"]}


def test_a_store_gets_what_a_folder_gets_and_the_scratch_folder_is_left_empty(
    server: FakeTriton, slides: Path, url: str, tmp_path: Path
) -> None:
    assert run(server, slides, str(tmp_path / "here")) == 0
    assert run(server, slides, url, "--scratch", str(tmp_path / "scratch")) == 0
    there = contents(StoreFolder(url), tmp_path / "there")
    here = {path.relative_to(tmp_path / "here").as_posix(): path.read_bytes() for path in (tmp_path / "here").rglob("*") if path.is_file()}
    assert there.keys() == here.keys()
    assert {name: data for name, data in there.items() if ".ome.zarr/" in name} == {
        name: data for name, data in here.items() if ".ome.zarr/" in name
    }
    assert there["index.html"].count(b"data:image/jpeg") == 2
    assert not (tmp_path / "scratch").exists()


def test_what_is_there_is_skipped_and_sends_nothing_and_another_mask_fails(
    server: FakeTriton, slides: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch = ("--scratch", str(tmp_path / "scratch"))
    assert run(server, slides / "a.tiff", url, *scratch) == 0
    sent = len(server.requests)
    assert run(server, slides, url, *scratch, "--skip-existing") == 0
    assert states(StoreFolder(url), tmp_path / "batch.json") == {"a.tiff": "skipped", "b.tiff": "done"}
    assert len(server.requests) == 2 * sent
    StoreFolder(url).get("index.html", tmp_path / "index.html")
    assert (tmp_path / "index.html").read_bytes().count(b"data:image/jpeg") == 2  # also of the one that was skipped
    capsys.readouterr()
    assert run(server, slides / "a.tiff", url, *scratch) == 1
    assert f"{url}/a.ome.zarr: expected no mask there yet" in capsys.readouterr().err
    assert run(server, slides / "a.tiff", url, *scratch, "--skip-existing", "--overlap", "0.25") == 1
    assert f"{url}/a.ome.zarr: expected the mask of this very run, since then changed: tiles" in " ".join(capsys.readouterr().err.split())
    assert len(server.requests) == 2 * sent
    assert run(server, slides / "a.tiff", url, *scratch, "--overwrite", "--overlap", "0.25") == 0
    assert len(server.requests) > 2 * sent


def test_a_store_that_fails_fails_the_slide_and_the_same_command_only_uploads(
    server: FakeTriton, slides: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scratch = ("--scratch", str(tmp_path / "scratch"))
    put = StoreFolder.put

    def full(folder: StoreFolder, file: Path, name: str) -> None:
        if name == "a.ome.zarr/labels/zarr.json":
            raise OutputError(f"{folder.url}/{name}: expected room")
        put(folder, file, name)

    with monkeypatch.context() as patched:
        patched.setattr(StoreFolder, "put", full)
        assert run(server, slides, url, *scratch) == 1
    assert "a.ome.zarr/labels/zarr.json: expected room" in capsys.readouterr().err
    assert states(StoreFolder(url), tmp_path / "batch.json") == {"a.tiff": "failed", "b.tiff": "done"}
    assert not StoreFolder(url).exists("a.ome.zarr/zarr.json")
    assert (tmp_path / "scratch" / "a.slide" / "a.ome.zarr").exists()
    sent = len(server.requests)
    assert run(server, slides, url, *scratch, "--skip-existing") == 0
    assert states(StoreFolder(url), tmp_path / "batch.json") == {"a.tiff": "done", "b.tiff": "skipped"}
    assert len(server.requests) == sent
    assert StoreFolder(url).exists("a.ome.zarr/zarr.json")
    assert not (tmp_path / "scratch").exists()


def test_parts_of_a_run_have_reports_of_their_own(server: FakeTriton, slides: Path, url: str, tmp_path: Path) -> None:
    for index in range(3):
        assert run(server, slides, url, "--scratch", str(tmp_path / f"scratch{index}"), "--shard", f"{index}/3") == 0
    reports = [tmp_path / f"{index}.json" for index in range(3)]
    for index, report in enumerate(reports):
        StoreFolder(url).get(f"batch.{index}-of-3.json", report)
    told = [entry["slide"] for report in reports for entry in json.loads(report.read_text())["slides"]]
    assert sorted(told) == ["a.tiff", "b.tiff"]
    assert not StoreFolder(url).exists("index.html")
    sent = len(server.requests)
    assert run(server, slides, url, "--scratch", str(tmp_path / "scratch"), "--skip-existing") == 0  # the page of all parts
    assert len(server.requests) == sent
    assert StoreFolder(url).exists("index.html")


def test_the_scratch_folder_belongs_to_the_url_and_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert default_scratch("s3://a/b") == default_scratch("s3://a/b/") != default_scratch("s3://a/c")
    (parent,) = tmp_path.iterdir()
    assert parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.getuid", lambda: 12345)
    parent.rename(tmp_path / "histoserve-12345")
    with pytest.raises(OutputError, match="it belongs to another: give --scratch"):
        default_scratch("s3://a/b")


@pytest.mark.parametrize("url", ["nonsense://a", "gs://bucket/masks"])
def test_a_url_that_cannot_be_written_to_is_told_before_anything_is_done(
    server: FakeTriton, slides: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(server, slides, url) == 1
    assert f"{url}: expected a URL that fsspec can write to" in capsys.readouterr().err
    assert not server.requests
