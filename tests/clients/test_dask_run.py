"""Slides over dask workers, each a process of its own: killed in the middle, unknown, interrupted, badly configured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.batch import Run
from clients.cli import main
from clients.dask_run import forgiving
from clients.omezarr import STRIP_PX, read_label
from clients.open_model import ModelSource
from clients.segment import SegmentOptions
from clients.slide_list import SlideEntry
from serving.port import free_port

from .fake_triton import MODEL, FakeTriton
from .painted import contract, paint, stripes, write_slide

SHAPE = (STRIP_PX + 800, 250)  # two strips of labels
TRUTH = stripes(SHAPE)
PATIENCE_S = 120.0


@contextmanager
def process(log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as out:
        started = subprocess.Popen(
            [sys.executable, "-m", "dask", *command], stdout=out, stderr=out, env=os.environ | {"PYTHONPATH": os.getcwd()}
        )
        try:
            yield started
        finally:
            started.kill()
            started.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its file: address and all. The tests share it, since processes take seconds to start: the one that kills a worker is the last."""
    tmp_path = tmp_path_factory.mktemp("dask")
    file = tmp_path / "scheduler.json"
    with ExitStack() as stack:
        stack.enter_context(
            process(
                tmp_path / "scheduler.log",
                "scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--no-dashboard",
                "--scheduler-file",
                str(file),
            )
        )
        for number in range(2):
            flags = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path / f"worker{number}"))
            stack.enter_context(process(tmp_path / f"worker{number}.log", "worker", "--scheduler-file", str(file), *flags))
        wait_until(file.exists)
        yield str(file)


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        write_slide(folder / f"s{number}.tiff", paint(TRUTH), 0.5)
    return folder


def wait_until(is_so: Callable[[], object]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def flags(server: FakeTriton, output: Path) -> list[str]:
    return ["--server", server.address, "--model", MODEL, "--output", str(output), "--batch", "4"]


def entries(output: Path) -> dict[str, dict[str, object]]:
    return {entry["slide"]: entry for entry in json.loads((output / "batch.json").read_text())["slides"]}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Killer:
    """Kills the process that works on the slide which first has a journal. Until that is done no request is answered."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.slide: str | None = None
        self._lock = threading.Lock()

    def __call__(self, number: int) -> float:
        with self._lock:
            if self.slide is None:
                self._look()
        return 0.0

    def _look(self) -> None:
        for state in self.output.glob(".*.ome.zarr.state"):
            holder = json.loads(state.with_name(state.name.removesuffix(".state") + ".lock").read_text())
            os.kill(holder["pid"], signal.SIGKILL)
            self.slide = state.name.split(".")[1]
            return  # the other worker may have a journal by now, and nobody would be left


@pytest.mark.slow
def test_ctrl_c_ends_the_slides_at_work_and_the_same_command_goes_on(
    scheduler: str, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, main_thread, is_told = tmp_path / "out", threading.get_ident(), threading.Event()

    def interrupt(number: int) -> float:
        if number == 3 and not is_told.is_set():
            is_told.set()
            signal.pthread_kill(main_thread, signal.SIGINT)
        return 0.05  # slides of many requests end long after the signal has reached the workers

    with FakeTriton(contract(), delay_s=interrupt) as server:
        arguments = [str(slides), *flags(server, out), "--in-flight", "1", "--dask", scheduler]
        assert main(arguments) == 130
        assert {entry["state"] for entry in entries(out).values()} == {"interrupted"}
        sent = len(server.requests)
        assert not any(out.glob("*.ome.zarr"))
        server.delay_s = lambda number: 0.0
        assert main([str(slides / "s0.tiff"), *arguments[1:]]) == 0  # no lock is held, and the workers take new runs
        assert len(server.requests) > sent
    assert "interrupted: the same command goes on after the last finished strips" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_is_killed_in_the_middle_and_all_masks_are_as_without(
    scheduler: str, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    killer = Killer(out)
    with FakeTriton(contract(), delay_s=killer) as server:
        assert main([str(slides), *flags(server, out), "--dask", scheduler]) == 0
        assert killer.slide is not None
        told = entries(out)
        assert {entry["state"] for entry in told.values()} == {"done"}
        summary = told[f"{killer.slide}.tiff"]["summary"]
        assert isinstance(summary, dict)
        assert 0 < summary["kept_tiles"] < summary["tissue_tiles"]  # the other worker went on with it
        assert "[3/3]" in capsys.readouterr().err
        assert main([str(slides), *flags(server, whole)]) == 0
    for number in range(3):
        np.testing.assert_array_equal(read_label(out / f"s{number}.ome.zarr").labels, TRUTH)
        assert contents(out / f"s{number}.ome.zarr") == contents(whole / f"s{number}.ome.zarr")
    assert (out / "index.html").exists()


@pytest.mark.parametrize("has_url", [False, True])
def test_a_mask_that_an_earlier_try_finished_may_stay_but_not_one_that_was_there_before(tmp_path: Path, has_url: bool) -> None:
    entry = SlideEntry(Path("in/s.svs"))
    run = Run(ModelSource("triton", MODEL, ("a:1",), Path()), tmp_path, SegmentOptions(), f"file://{tmp_path}" if has_url else None)
    assert forgiving(run, entry).options.skip_existing
    (tmp_path / "s.ome.zarr").mkdir()
    (tmp_path / "s.ome.zarr" / "zarr.json").write_text("{}")
    assert forgiving(run, entry) == run
    assert forgiving(replace(run, options=SegmentOptions(overwrite=True)), entry).options.overwrite


def test_no_scheduler_is_told_in_one_line(
    slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clients.dask_run._CONNECT_S", 0.5)
    address = f"127.0.0.1:{free_port()}"
    with FakeTriton(contract()) as server:
        assert main([str(slides), *flags(server, tmp_path / "out"), "--dask", address]) == 1
    assert f"--dask {address}: expected a dask scheduler, none answers" in capsys.readouterr().err
