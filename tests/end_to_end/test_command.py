"""What the command says when something is wrong: one line with the remedy and an exit code that is not 0."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .conftest import SLIDES, WholeWay, histoserve, needs_slides

pytestmark = pytest.mark.slow


def one_line(arguments: list[str | Path]) -> str:
    done = histoserve(*arguments)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_wrong_path(tmp_path: Path) -> None:
    line = one_line(["segment", tmp_path / "absent.svs", "-o", tmp_path / "out"])
    assert "absent.svs: expected a slide, found no such file: check the path" in line


def test_a_text_file_that_calls_itself_a_slide(tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("hello")
    assert "text.svs: expected a slide in a format that OpenSlide reads" in one_line(
        ["segment", tmp_path / "text.svs", "-o", tmp_path / "out"]
    )


@pytest.mark.slide
@needs_slides
def test_a_slide_without_scale(tmp_path: Path) -> None:
    assert "tcga-cr-7395.svs: expected micrometers per pixel" in one_line(["segment", SLIDES / "tcga-cr-7395.svs", "-o", tmp_path])


@pytest.mark.slide
@needs_slides
def test_a_slide_with_an_absurd_scale(tmp_path: Path) -> None:
    line = one_line(["segment", SLIDES / "cmu-1-small-region-wrong-mpp.tiff", "-o", tmp_path])
    assert "the slide says 0.00499" in line
    assert "--mpp" in line


@pytest.mark.triton
def test_a_missing_model(whole_way: WholeWay, tmp_path: Path) -> None:
    flags: list[str | Path] = ["-o", tmp_path / "out", "--repository", whole_way.repository, "--model", "bcss_segment"]
    line = one_line(["segment", whole_way.slide, *flags])
    assert "bcss_segment" in line
    assert "demo_segment" in line  # what there is


@pytest.mark.triton
def test_a_port_in_use(whole_way: WholeWay) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in one_line(["serve", "--repository", whole_way.repository, "--port", str(port)])


def test_missing_data_and_checkpoints(tmp_path: Path) -> None:
    assert "labels.csv: expected image-level labels there" in one_line(["train", "--data", tmp_path, "--output", tmp_path / "out"])
    assert "absent.pt: expected a checkpoint" in one_line(["export", tmp_path / "absent.pt", "--repository", tmp_path])
    assert "absent.ome.zarr: expected a mask" in one_line(
        ["evaluate", "--mask", tmp_path / "absent.ome.zarr", "--truth", tmp_path / "truth.png"]
    )


def test_an_unknown_command_is_wrong_usage() -> None:
    done = histoserve("paint")
    assert done.returncode == 2
    assert "unknown command 'paint'" in done.stderr
    assert "segment" in done.stderr


@pytest.mark.parametrize("command", ["train", "export", "serve", "segment", "evaluate", "demo"])
def test_every_command_explains_itself(command: str) -> None:
    done = histoserve(command, "--help")
    assert done.returncode == 0
    assert f"histoserve {command}" in done.stdout
