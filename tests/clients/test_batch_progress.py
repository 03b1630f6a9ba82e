"""What a run says of itself: rates without what an interrupted run had done, and a line per slide."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

import clients.batch_progress
from clients.batch_progress import BatchProgress
from clients.summary import SlideOutcome, SlideSummary


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clients.batch_progress, "time", made)
    return made


def summary(kept: int) -> SlideSummary:
    return SlideSummary(
        slide="a.svs",
        mask="a.ome.zarr",
        overlay="a.overlay.png",
        model="m",
        release="r",
        mpp=(0.5, 0.5),
        size_px=(1, 1),
        level=0,
        tiles=500,
        tissue_tiles=300,
        kept_tiles=kept,
        reader="native",
        reader_reason="",
        icc_ignored=False,
        areas_mm2={},
        seconds={"segment": 2.0},
        versions={},
    )


def test_lines_tell_rates_areas_and_what_is_left(clock: Clock) -> None:
    out = io.StringIO()
    with BatchProgress(Console(file=out, width=200), 4, tile_mm2=0.01) as progress:
        progress.tiles("a.svs", 100, 300)  # 100 were there before
        clock.now_s += 2
        progress.tiles("a.svs", 300, 300)
        progress.finished(SlideOutcome("a.svs", "done", None, summary(kept=100)))
        progress.finished(SlideOutcome("b.svs", "failed", "no"))  # why is told at the end of the run
        progress.finished(SlideOutcome("c.svs", "skipped"))
    first, third = out.getvalue().splitlines()
    assert first.startswith("[1/4] a.svs: 300 of 500 tiles (100/s, 100 of them before it was interrupted) → a.ome.zarr, a.overlay.png")
    assert first.endswith("100 tiles/s, 1 mm²/s, 6 s left")
    assert third.startswith("[3/4] c.svs: skipped, its mask is there")
    assert third.endswith("1 s left")


def test_the_last_line_promises_nothing(clock: Clock) -> None:
    out = io.StringIO()
    with BatchProgress(Console(file=out, width=200), 1, tile_mm2=0.01) as progress:
        progress.finished(SlideOutcome("[a].svs", "skipped"))
    assert out.getvalue() == "[1/1] [a].svs: skipped, its mask is there\n"
