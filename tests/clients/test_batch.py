"""Runs of many slides through the command: one fails alone, others are skipped, interrupted, or shared among processes."""

from __future__ import annotations

import itertools
import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clients.batch
from clients.batch import Run, run_in_threads, segment_entry
from clients.cli import main
from clients.omezarr import read_label
from clients.open_model import ModelSource
from clients.segment import SegmentOptions
from clients.slide_list import SlideEntry
from clients.summary import SlideOutcome

from .fake_triton import MODEL, FakeTriton
from .painted import contract, paint, stripes, write_slide
from .painted_model import PaintedModel

SHAPE = (300, 420)
TRUTH = stripes(SHAPE)


@pytest.fixture
def server() -> Iterator[FakeTriton]:
    with FakeTriton(contract()) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    slides = tmp_path / "in"
    slides.mkdir()
    for number in range(4):
        write_slide(slides / f"s{number}.tiff", paint(TRUTH), 0.5)
    return slides


def flags(server: FakeTriton, output: Path) -> list[str]:
    return ["--server", server.address, "--model", MODEL, "--output", str(output)]


def states(output: Path) -> dict[str, str]:
    return {entry["slide"]: entry["state"] for entry in json.loads((output / "batch.json").read_text())["slides"]}


def entries_of(folder: Path) -> list[SlideEntry]:
    return [SlideEntry(path) for path in sorted(folder.iterdir())]


def run_of(output: Path) -> Run:
    return Run(ModelSource("triton", MODEL, (), Path()), output, SegmentOptions(batch=4))


def test_a_folder_with_one_broken_slide(server: FakeTriton, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "s1.tiff").write_text("not a slide")
    (folder / "s2.tiff").rename(folder / "s2.txt")
    out = tmp_path / "out"
    assert main([str(folder), *flags(server, out)]) == 1
    assert states(out) == {"s0.tiff": "done", "s1.tiff": "failed", "s3.tiff": "done"}
    for name in ("s0", "s3"):
        np.testing.assert_array_equal(read_label(out / f"{name}.ome.zarr").labels, TRUTH)
    told = capsys.readouterr().err
    assert "s1.tiff: expected a slide" in told
    assert "[3/3]" in told
    assert "mm²/s" in told


def test_a_list_brings_each_slide_s_scale(server: FakeTriton, folder: Path, tmp_path: Path) -> None:
    write_slide(folder / "s0.tiff", paint(TRUTH), None)
    (folder / "list.csv").write_text("slide,mpp\ns0.tiff,0.499\ns1.tiff,\n")
    out = tmp_path / "out"
    assert main(["--list", str(folder / "list.csv"), *flags(server, out)]) == 0
    assert read_label(out / "s0.ome.zarr").mpp == (0.499, 0.499)
    assert read_label(out / "s1.ome.zarr").mpp == (0.5, 0.5)


def test_what_is_there_is_skipped_and_sends_nothing(
    server: FakeTriton, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(folder / "s0.tiff"), *flags(server, out)]) == 0
    sent = len(server.requests)
    assert main([str(folder / "s0.tiff"), str(folder / "s1.tiff"), *flags(server, out), "--skip-existing"]) == 0
    assert states(out) == {"s0.tiff": "skipped", "s1.tiff": "done"}
    assert "s0.tiff: skipped, its mask is there" in capsys.readouterr().err
    assert len(server.requests) == 2 * sent
    assert main([str(folder / "s0.tiff"), *flags(server, out)]) == 1  # not asked to skip


def test_ctrl_c_ends_with_130_and_one_line_and_the_same_command_goes_on(
    server: FakeTriton, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    answer: Callable[..., Any] = server._answer
    main_thread, is_told, is_over = threading.get_ident(), threading.Event(), threading.Event()

    def interrupting(*arguments: Any) -> Any:
        if not is_told.is_set():
            is_told.set()
            signal.pthread_kill(main_thread, signal.SIGINT)
        is_over.wait(0.5)  # until the command has seen the signal, however busy the machine: the slides must not end before
        return answer(*arguments)

    server._answer = interrupting  # type: ignore[assignment, method-assign]
    assert main([str(folder), *flags(server, out), "--batch", "4"]) == 130
    is_over.set()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("histoserve segment:")]
    assert "interrupted: the same command goes on after the last finished strips" in line
    assert "interrupted" in states(out).values()
    assert set(states(out).values()) <= {"interrupted", "waiting"}
    assert main([str(folder), *flags(server, out)]) == 0
    assert set(states(out).values()) == {"done"}


@pytest.mark.slow
def test_processes_share_the_slides_and_one_fails_alone(server: FakeTriton, folder: Path, tmp_path: Path) -> None:
    (folder / "s2.tiff").write_text("not a slide")
    out = tmp_path / "out"
    assert main([str(folder), *flags(server, out), "--jobs", "2"]) == 1
    assert states(out) == {"s0.tiff": "done", "s1.tiff": "done", "s2.tiff": "failed", "s3.tiff": "done"}
    for name in ("s0", "s1", "s3"):
        np.testing.assert_array_equal(read_label(out / f"{name}.ome.zarr").labels, TRUTH)


def test_the_report_is_written_after_each_slide(folder: Path, tmp_path: Path) -> None:
    ended: list[tuple[str, str]] = []

    def on_outcome(entry: SlideEntry, outcome: SlideOutcome) -> None:
        ended.append((entry.path.name, outcome.state))

    run_in_threads(run_of(tmp_path / "out"), PaintedModel(), entries_of(folder), lambda *report: None, on_outcome)
    assert sorted(ended) == [(f"s{number}.tiff", "done") for number in range(4)]


def test_the_next_slide_is_ready_while_this_one_sends_and_their_tiles_never_mix(folder: Path, tmp_path: Path) -> None:
    order: list[int] = []
    begun = itertools.count()
    is_second_ready = threading.Event()

    class Recording(PaintedModel):
        def stream(self, batches: Any, in_flight: int) -> Any:
            number = next(begun)
            if number == 1:
                is_second_ready.set()
            yield from super().stream(self.recorded(number, batches), in_flight)

        def recorded(self, number: int, batches: Any) -> Any:
            for batch in batches:
                assert is_second_ready.wait(20)
                order.append(number)
                yield batch

    run_in_threads(run_of(tmp_path / "out"), Recording(), entries_of(folder), lambda *report: None, lambda entry, outcome: None)
    assert len(set(order)) == 4
    assert sum(before != after for before, after in itertools.pairwise(order)) == 3


def test_an_error_that_nobody_thought_of_fails_one_slide(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Stop:
        def is_set(self) -> bool:
            return False

    def explode(*arguments: Any) -> Any:
        raise IndexError("7")

    monkeypatch.setattr(clients.batch, "segment_slide", explode)
    entry = entries_of(folder)[0]
    outcome = segment_entry(entry, run_of(tmp_path), PaintedModel(), lambda *report: None, Stop(), None)
    assert outcome.state == "failed"
    assert outcome.reason is not None
    assert "s0.tiff: unexpected IndexError: 7" in outcome.reason
    assert "explode" in caplog.text  # the traceback
