"""`--headers FILE`: what may stand in it, what is never told of it, and slides through servers that ask for a token."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from clients.cli import main
from clients.errors import ClientError, HeaderFileError
from clients.header_file import read_headers
from clients.omezarr import read_label
from clients.open_model import ModelSource, open_model

from .fake_triton import MODEL
from .painted import contract, paint, stripes, write_slide
from .token_triton import TOKEN, AsksForToken

LABELS = stripes((200, 300))
names = st.from_regex(r"[A-Za-z0-9_.-]{1,20}", fullmatch=True).filter(
    lambda name: not name.lower().startswith("grpc-") and not name.lower().endswith("-bin")
)
values = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@given(st.dictionaries(names.map(str.lower), values))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, headers: dict[str, str]) -> None:
    text = "# of the cluster\n\n" + "".join(f" {name.upper()} :  {value} \r\n" for name, value in headers.items())
    path = written(tmp_path_factory.mktemp("headers") / "headers", text)
    if headers:
        assert read_headers(path) == headers
    else:
        with pytest.raises(HeaderFileError, match="expected at least one line"):
            read_headers(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: b\nsecret-of-mine\n", "line 2: expected `name: value` in ASCII"),
        ("secret of mine: b\n", "line 1: expected `name: value` in ASCII"),
        ("a: secret of mïne\n", "line 1: expected `name: value` in ASCII"),
        ("a:\n", "line 1: expected `name: value` in ASCII"),
        ("secret-bin: b\n", "line 1: expected a name that does not begin with grpc- and does not end with -bin"),
        ("a: secret\nA: b\n", "line 2: expected each name once"),
    ],
)
def test_what_does_not_fit_is_told_by_its_line_and_never_by_its_text(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(HeaderFileError) as raised:
        read_headers(written(tmp_path / "headers", text))
    assert str(raised.value).startswith(f"--headers {tmp_path / 'headers'}, {told}")
    assert "secret" not in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(HeaderFileError, match="cannot read it: No such file or directory"):
        read_headers(tmp_path / "headers")
    (tmp_path / "headers").write_bytes(b"\xff\xfe")
    with pytest.raises(HeaderFileError, match="cannot read it: not UTF-8"):
        read_headers(tmp_path / "headers")


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "one.tiff", paint(LABELS), mpp=0.5)


@pytest.mark.parametrize("count", [1, 2])
def test_a_slide_through_servers_that_ask_for_a_token(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int) -> None:
    """Every request bears it, and no result and no output tells it."""
    headers, out = written(tmp_path / "headers", f"authorization: {TOKEN}\n"), tmp_path / "out"
    with AsksForToken(contract()) as one, AsksForToken(contract()) as other:
        servers = [one, other][:count]
        flags = ["--server", ",".join(server.address for server in servers), "--model", MODEL, "--output", str(out)]
        assert main([str(slide), *flags, "--batch", "2", "--headers", str(headers), "--json"]) == 0
        assert [server.refused for server in servers] == [0] * count
        assert min(server.let_in for server in servers) >= 3
    read_label(out / "one.ome.zarr")
    told = capsys.readouterr()
    files = [path.read_text(errors="replace") for path in out.rglob("*") if path.is_file() and path.suffix in (".json", ".html")]
    assert files
    assert not [text for text in (told.out, told.err, *files) if TOKEN in text]
    assert json.loads(told.out)


def test_without_the_token_the_remedy_is_told(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with AsksForToken(contract()) as server:
        assert main([str(slide), "--server", server.address, "--model", MODEL, "--output", str(tmp_path / "out")]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "refuses this caller: no token, or a wrong one: give the token with --headers FILE" in told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--headers", "HEADERS"], "expected --server with it"),
        (["--server", "a:1", "--headers", "nowhere"], "--headers nowhere: expected a file of lines"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "headers", "a: b\n")
    with pytest.raises(SystemExit) as caught:
        main(["s.tiff", "--output", str(tmp_path / "out"), *(str(path) if flag == "HEADERS" else flag for flag in flags)])
    assert caught.value.code == 2
    assert told in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_a_worker_without_the_file_fails_with_the_reason(tmp_path: Path) -> None:
    """A worker elsewhere gets the path, and is to find the file under it."""
    source = ModelSource("triton", MODEL, ("127.0.0.1:9",), Path(), headers=tmp_path / "headers")
    with pytest.raises(ClientError, match="cannot read it"), open_model(dataclasses.replace(source)):
        pass
