"""A folder by its URL: what is there, what is tried again, what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import clients.store_url
from clients.errors import OutputError
from clients.store_url import StoreFolder, is_url


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.store_url, "_WAITS_S", (0.0, 0.0))


@pytest.fixture(params=["memory", "file"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> StoreFolder:
    return StoreFolder(f"memory://{uuid4().hex}/masks/" if request.param == "memory" else f"file://{tmp_path}/there/masks")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "local.bin"
    path.write_bytes(b"12345")
    return path


@pytest.mark.parametrize(
    ("text", "is_one"), [("s3://bucket/masks", True), ("memory://a", True), ("masks", False), ("/a/b", False), ("C:/a", False)]
)
def test_what_is_a_url(text: str, is_one: bool) -> None:
    assert is_url(text) is is_one


def test_files_go_there_and_come_back(folder: StoreFolder, file: Path, tmp_path: Path) -> None:
    assert folder.list_files("s.zarr") == {}
    assert not folder.exists("s.zarr/0/c")
    folder.put(file, "s.zarr/0/c")
    folder.put(file, "s.json")
    assert folder.exists("s.zarr/0/c")
    assert folder.list_files("s.zarr") == {"s.zarr/0/c": 5}
    folder.get("s.zarr/0/c", tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").read_bytes() == b"12345"
    folder.remove("s.zarr/0/c")
    assert folder.list_files("s.zarr") == {}
    assert folder.exists("s.json")


def test_what_is_not_there_is_named(folder: StoreFolder, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"masks/absent: expected a store that can be read and written to, got FileNotFoundError"):
        folder.get("absent", tmp_path / "x")


@pytest.mark.parametrize(("failures", "tries", "is_there"), [(2, 3, True), (3, 3, False)])
def test_what_fails_is_tried_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failures: int, tries: int, is_there: bool
) -> None:
    folder = StoreFolder(f"memory://{uuid4().hex}")
    put, calls = folder._fs.put_file, []

    def failing(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) <= failures:
            raise ConnectionError("slow down")
        return put(*arguments)

    monkeypatch.setattr(folder._fs, "put_file", failing)
    if is_there:
        folder.put(file, "a")
    else:
        with pytest.raises(OutputError, match=r"/a: expected a store .* got ConnectionError: slow down: check the URL .* --scratch"):
            folder.put(file, "a")
    assert len(calls) == tries
    assert "ConnectionError: slow down; tried again in 0 s" in caplog.text
    assert folder.exists("a") is is_there


def test_what_is_forbidden_is_not_tried_again(file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    folder = StoreFolder(f"memory://{uuid4().hex}")

    def refuse(*arguments: Any) -> Any:
        raise PermissionError("not yours")

    monkeypatch.setattr(folder._fs, "put_file", refuse)
    with pytest.raises(OutputError, match="PermissionError: not yours"):
        folder.put(file, "a")
    assert "tried again" not in caplog.text


@pytest.mark.parametrize("url", ["nonsense://a/b", "gs://bucket/masks"])
def test_a_protocol_that_nobody_speaks_here(url: str) -> None:
    with pytest.raises(OutputError, match=rf"{url}: expected a URL that fsspec can write to: .*histoserve\[store\]"):
        StoreFolder(url)
