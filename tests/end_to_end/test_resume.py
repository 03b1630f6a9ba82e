"""A command that is killed, interrupted, or computes by itself, with the real server: the masks are the same to the byte."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.embedded import EmbeddedTriton
from tests.clients.encoded import picture
from tests.clients.painted import write_slide

from .conftest import ROOT, histoserve

pytestmark = [pytest.mark.triton, pytest.mark.slow]
MODEL, REPOSITORY = "default_segment", ROOT / "model_repository"
KILLS = 4
STARTED_WITHIN_S = 120


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton(REPOSITORY, [MODEL]) as started:
        yield started


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six strips, wide enough that much is left when one is seen to be done."""
    return write_slide(tmp_path_factory.mktemp("slide") / "s.tiff", picture(5300, 1200), 1.0)


@pytest.fixture(scope="module")
def whole(server: EmbeddedTriton, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The mask of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    done = histoserve("segment", slide, *flags(server, folder))
    assert done.returncode == 0, done.stderr
    content = contents(folder)
    assert len([name for name in content if "/0/c/" in name]) >= 6
    return content


def flags(server: EmbeddedTriton, output: Path) -> list[str]:
    return ["-o", str(output), "--server", server.address, "--model", MODEL, "--batch", "8"]


def start(slide: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("histoserve")), "segment", str(slide), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def contents(folder: Path) -> dict[str, bytes]:
    store = folder / "s.ome.zarr"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def wait_for_a_strip(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until the state is written anew, or the process has ended."""
    state = folder / ".s.ome.zarr.state"
    before = state.stat().st_mtime_ns if state.exists() else 0
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if state.exists() and state.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)


def test_killed_again_and_again_the_mask_is_the_same_to_the_byte(
    server: EmbeddedTriton, slide: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    chance = random.Random(0)
    killed = 0
    for _ in range(KILLS):
        with start(slide, *flags(server, tmp_path)) as process:
            wait_for_a_strip(tmp_path, process)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
        assert (tmp_path / "s.ome.zarr").exists() or (tmp_path / ".s.ome.zarr.state").exists()
    assert killed >= 2
    if not (tmp_path / "s.ome.zarr").exists():
        done = histoserve("segment", slide, *flags(server, tmp_path))
        assert done.returncode == 0, done.stderr
        assert "of them before it was interrupted" in done.stderr
    assert contents(tmp_path) == whole


def test_ctrl_c_ends_with_130_and_says_that_it_can_go_on(
    server: EmbeddedTriton, slide: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with start(slide, *flags(server, tmp_path)) as process:
        wait_for_a_strip(tmp_path, process)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=STARTED_WITHIN_S)
    assert process.returncode == 130
    assert told.strip().splitlines() == ["histoserve segment: interrupted: the same command goes on after the last finished strips"]
    assert histoserve("segment", slide, *flags(server, tmp_path)).returncode == 0
    assert contents(tmp_path) == whole


@pytest.mark.parametrize(("engine", "variable"), [("local", ""), ("local-onnxruntime", "onnxruntime")])
def test_the_engine_in_the_client_says_what_the_same_one_in_the_server_says(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, variable: str
) -> None:
    monkeypatch.setenv("HISTOSERVE_ENGINE", variable)
    common = ["--repository", str(REPOSITORY), "--model", MODEL]
    for arguments in (["-o", str(tmp_path / "served")], ["-o", str(tmp_path / "local"), "--engine", engine]):
        done = histoserve("segment", slide, *arguments, *common)
        assert done.returncode == 0, done.stderr
    served, local = ({name: content for name, content in contents(tmp_path / run).items() if "/c/" in name} for run in ("served", "local"))
    assert local == served
    assert len(set(served.values())) > 6  # no empty masks
