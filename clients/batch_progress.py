"""How far a run of slides is: bars on a terminal, a line per finished slide everywhere. Knows no slide."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from .summary import SlideOutcome


class BatchProgress:
    """A context manager; its methods may be called from many threads.

    Args:
        count: slides of the run.
        tile_mm2: of the slide that one tile settles.
    """

    def __init__(self, console: Console, count: int, tile_mm2: float) -> None:
        self._console = console
        self._count = count
        self._tile_mm2 = tile_mm2
        self._lock = threading.Lock()
        self._start_s = time.monotonic()
        self._first: dict[str, int] = {}  # tiles that an interrupted run had done
        self._done: dict[str, int] = {}
        self._shares: dict[str, float] = {}
        self._ended = 0
        self._tasks: dict[str, TaskID] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[told]}"))
        self._bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._whole = self._bars.add_task("slides", total=count, told="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def tiles(self, slide: str, done: int, total: int) -> None:
        """Some more tiles of a slide are done."""
        with self._lock:
            self._first.setdefault(slide, done)
            self._done[slide] = done
            self._shares[slide] = done / total if total else 1.0
            if slide not in self._tasks:
                self._tasks[slide] = self._bars.add_task(slide, total=total, told="tiles")
            self._bars.update(self._tasks[slide], completed=done)
            self._bars.update(self._whole, told=self._told())

    def finished(self, outcome: SlideOutcome) -> None:
        """A slide has ended, one way or the other."""
        with self._lock:
            self._ended += 1
            self._shares.pop(outcome.slide, None)
            if outcome.slide in self._tasks:
                self._bars.remove_task(self._tasks.pop(outcome.slide))
            self._bars.update(self._whole, completed=self._ended, told=self._told())
            line = f"[{self._ended}/{self._count}] {outcome.slide}: {_ending(outcome)}"
            told = f"   {self._told()}" if self._ended < self._count else ""
        if outcome.state not in ("failed", "interrupted"):  # why is told at the end, where it is seen
            self._console.print(f"{line}{told}", highlight=False, soft_wrap=True, markup=False)

    def _told(self) -> str:
        elapsed_s = max(time.monotonic() - self._start_s, 1e-9)
        sent = sum(self._done.values()) - sum(self._first.values())
        share = (self._ended + sum(self._shares.values())) / max(self._count, 1)
        left = f", {_duration(elapsed_s * (1 / share - 1))} left" if share > 0 else ""
        return f"{sent / elapsed_s:.0f} tiles/s, {sent * self._tile_mm2 / elapsed_s:.3g} mm²/s{left}"


def _ending(outcome: SlideOutcome) -> str:
    summary = outcome.summary
    if summary is None:
        return "skipped, its mask is there"
    sent = summary.tissue_tiles - summary.kept_tiles
    rate = sent / max(summary.seconds["segment"], 1e-9)
    kept = f", {summary.kept_tiles} of them before it was interrupted" if summary.kept_tiles else ""
    return f"{summary.tissue_tiles} of {summary.tiles} tiles ({rate:.0f}/s{kept}) → {summary.mask}, {summary.overlay}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
