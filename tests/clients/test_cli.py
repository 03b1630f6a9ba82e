"""`histoserve segment` from the outside: exit codes, one line per error, what a run of several slides leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients.cli import main
from clients.omezarr import read_label

from .fake_triton import MODEL, FakeTriton
from .painted import contract, paint, stripes, write_slide


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with FakeTriton(contract()) as started:
        yield started


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "s.tiff", paint(stripes((400, 500))), 0.5)


def flags(server: FakeTriton, output: Path) -> list[str]:
    return ["--server", server.address, "--model", MODEL, "--output", str(output)]


def test_a_slide_becomes_a_mask(server: FakeTriton, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([str(slide), *flags(server, out), "--json"]) == 0
    files = ["geojson.gz", "ome.zarr", "overlay.png", "qupath.groovy", "summary.json", "tissue.png"]
    assert sorted(path.name for path in out.iterdir()) == ["batch.json", "index.html", *(f"s.{name}" for name in files)]
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["state"] == "done"
    assert entry["summary"]["release"] == "painted_r1_segment"
    assert read_label(out / "s.ome.zarr").labels.any()


def test_a_broken_slide_fails_alone(server: FakeTriton, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.svs"
    broken.write_text("not a slide")
    out = tmp_path / "out"
    assert main([str(broken), str(slide), *flags(server, out)]) == 1
    entries = {entry["slide"]: entry for entry in json.loads((out / "batch.json").read_text())["slides"]}
    assert entries["s.tiff"]["state"] == "done"
    assert entries["broken.svs"]["state"] == "failed"
    assert "expected a slide in a format" in entries["broken.svs"]["reason"]
    assert "broken.svs: expected a slide" in capsys.readouterr().err


def test_says_in_one_line_what_is_wrong(server: FakeTriton, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unscaled = write_slide(tmp_path / "unscaled.tiff", paint(stripes((200, 200))), None)
    cases = {
        "absent.svs: expected a slide, found no such file": [str(tmp_path / "absent.svs"), *flags(server, tmp_path / "a")],
        "give them with --mpp": [str(unscaled), *flags(server, tmp_path / "b")],
        "check --model": [str(slide), *flags(server, tmp_path / "c"), "--model", "absent_segment"],
        "none answers": [str(slide), *flags(server, tmp_path / "d"), "--server", "127.0.0.1:1"],
        "give another --output": [str(slide), *flags(server, slide)],
        "export a model into it": [str(slide), "--repository", str(tmp_path / "none"), "--output", str(tmp_path / "e")],
    }
    for message, arguments in cases.items():
        assert main(arguments) == 1, message
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.strip().count("\n") == 0, captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--overlap", "0.8"], "--overlap 0.8: expected 0 … 0.75"),
        (["--batch", "0"], "--batch 0: expected at least 1"),
        (["--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--engine", "local", "--server", "a:1"], "--server a:1: expected none with --engine local"),
        (["--tls-ca", __file__], "--tls-ca, --tls-cert, --tls-key: expected --server with them"),
        (["--server", "a:1", "--tls-key", __file__], "--tls-key: expected --tls-cert with it, got none"),
        (["--in-flight", "0"], "--in-flight 0: expected at least 1"),
        (["--server", "a:1,b"], "--server a:1,b: expected \"host:port\", several of them with commas between, got 'b'"),
        (["--shard", "3/3"], "--shard 3/3: expected I/N with I from 0 to N - 1"),
        (["--dask", "a:1"], "--dask a:1: expected --server with it"),
        (["--dask", "a:1", "--server", "b:1", "--jobs", "2"], "--dask a:1: expected no --jobs with it"),
        (["--scratch", "tmp"], "--scratch tmp: expected an --output that is a URL"),
        (["elsewhere/s.tiff"], "expected different file names"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["s.tiff", *arguments, "--output", str(tmp_path / "out")])
    assert exit_info.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_two_servers_share_the_work_and_parts_share_the_slides(
    server: FakeTriton, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeTriton(contract()) as other:
        both = [str(slide), *flags(server, tmp_path / "out"), "--server", f"{server.address},{other.address}", "--batch", "2"]
        assert main([*both, "--shard", "0/2"]) == 0
        assert main([*both, "--shard", "1/2"]) == 0
        assert server.requests
        assert other.requests
    told = capsys.readouterr().err
    assert ("part 0/2: 0 slides" in told, "part 1/2: 0 slides" in told) in [(True, False), (False, True)]
    reports = [json.loads((tmp_path / "out" / f"batch.{index}-of-2.json").read_text())["slides"] for index in range(2)]
    assert [entry["state"] for report in reports for entry in report] == ["done"]
    assert not (tmp_path / "out" / "index.html").exists()


def test_servers_of_different_releases_are_told_in_one_line(
    server: FakeTriton, slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeTriton(contract(), version="2") as other:
        arguments = [str(slide), *flags(server, tmp_path / "out"), "--server", f"{server.address},{other.address}"]
        assert main(arguments) == 1
    assert f"{server.address} and {other.address}: expected the same model 'painted_segment'" in capsys.readouterr().err
