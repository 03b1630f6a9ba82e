"""The instruments of `slide_cost`: its slide, its clock of phases, and small runs against the model that answers at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openslide
import pytest

from benchmarks.cpu_phases import Phases
from benchmarks.null_triton import null_server
from benchmarks.repeated_slide import write_repeated
from benchmarks.slide_cost import CostConfig, measure_cpu, measure_memory, measure_resume
from clients.slide import open_slide

SMALL = CostConfig(width_px=600, rows_px=4200, memory_rows_px=(500,), repeats=1, batch=4)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "s.tiff"
    write_repeated(path, SMALL.width_px, SMALL.rows_px)
    return path


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with null_server() as started:
        yield started


def test_the_slide_repeats_and_is_read_natively(slide: Path) -> None:
    with open_slide(slide) as opened, openslide.OpenSlide(str(slide)) as other:
        assert opened.reader == "native"
        assert opened.mpp == pytest.approx((0.5, 0.5))
        assert [(level.width, level.height) for level in opened.levels] == [(600, 4200), (300, 2100), (150, 1050)]
        top = opened.read(0, 0, 0, 600, 1024)
        assert np.array_equal(opened.read(0, 0, 1024, 600, 1024), top)
        assert np.array_equal(np.asarray(other.read_region((0, 0), 0, (600, 1024)))[..., :3], top)
        assert top.std() > 10


class _Clock(threading.local):
    """A thread's own, that goes on only where it is told to."""

    now_s = 0.0

    def read(self) -> float:
        return self.now_s


class _Work:
    clock = _Clock()

    def outer(self) -> None:
        self.clock.now_s += 1.0
        self.inner()
        self.inner()
        self.clock.now_s += 4.0

    def inner(self) -> None:
        self.clock.now_s += 16.0


def test_a_phase_is_its_threads_time_without_the_phases_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "thread_time", _Work.clock.read)
    phases = Phases()
    with phases.wrap([(_Work, "outer", "outside"), (_Work, "inner", "inside")]):
        threads = [threading.Thread(target=_Work().outer) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert phases.cpu_s == {"outside": 10.0, "inside": 64.0}
    _Work().outer()
    assert phases.cpu_s == {"outside": 10.0, "inside": 64.0}  # the block has ended


def test_cpu_by_phase_adds_up(slide: Path, address: str, tmp_path: Path) -> None:
    figures = measure_cpu(slide, address, SMALL, tmp_path)
    by_phase = dict(figures["cpu_s_per_1000_tiles"])
    whole = by_phase.pop("all")
    assert figures["tiles"] > 10
    assert {"open", "mask", "decode", "cut, send", "send and receive", "blend", "labels", "write", "journal"} <= set(by_phase)
    assert min(by_phase.values()) > 0
    assert sum(by_phase.values()) == pytest.approx(whole, abs=0.001 * len(by_phase))


def test_a_resumed_slide_sends_no_finished_tile_again(slide: Path, address: str, tmp_path: Path) -> None:
    figures = measure_resume(slide, address, SMALL, tmp_path)
    assert figures["again"] == 0
    assert 0 < figures["of_finished_strips"] < figures["sent_before"]
    assert figures["of_finished_strips"] + figures["sent_after"] == figures["tiles"]


@pytest.mark.slow
def test_peak_memory_is_of_a_process_of_its_own(address: str, tmp_path: Path) -> None:
    ballast = np.ones(400 << 20, dtype=np.uint8)
    peaks = measure_memory(tmp_path, address, SMALL)
    assert ballast.all()
    assert list(peaks) == ["start", "600×500"]
    assert 50 < peaks["start"] < peaks["600×500"] < peaks["start"] + 400
