"""Slides through a server in a process of its own: seconds, CPU by phase, memory. Knows no flags and no order of runs."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent import futures
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.local_model import LocalModel
from clients.segment import SegmentOptions, SlideModel, segment_slide
from clients.served_model import ServedModel
from clients.summary import SlideSummary

from ..cpu_phases import Phases
from .slide_phases import CALLS, REST


@dataclass(frozen=True)
class SlideRun:
    """What is segmented by what.

    Attributes:
        slides: one after the other, in one process with one connection.
        address: of a server; "" = the engine in the process (`--engine local`) on `repository`.
        overlap, batch: as of `histoserve segment`.
    """

    slides: tuple[Path, ...]
    model: str
    address: str = ""
    repository: Path = Path("model_repository")
    overlap: float = 0.125
    batch: int | None = None


def measure_run(run: SlideRun) -> dict[str, Any]:
    """Run it in a fresh process; what it cost.

    Returns:
        seconds: of the slides, from opening to the finished mask, the connection or network being there.
        laps: the same by `S.summary.json`: tissue, segment, finish.
        phases: CPU-seconds by phase. busy: seconds by phase, waiting included; phases overlap.
        peak_mb: of the process, 10⁶ bytes; the server's is not in it.

    Raises:
        ClientError: a slide or the server.
    """
    with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run_alone, run).result()


def _run_alone(run: SlideRun) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = _open(run, stack)
        phases = Phases()
        options = SegmentOptions(overlap=run.overlap, batch=run.batch)
        start_s, start_cpu_s = time.monotonic(), time.process_time()
        with phases.wrap(CALLS):
            summaries = [_segment(slide, model, folder / str(number), options) for number, slide in enumerate(run.slides)]
        seconds, cpu_s = time.monotonic() - start_s, time.process_time() - start_cpu_s
    phases.cpu_s[REST] = phases.cpu_s.get(REST, 0.0) + cpu_s - sum(phases.cpu_s.values())
    return {
        **figures_of(summaries, seconds, cpu_s),
        "phases": _rounded(phases.cpu_s),
        "busy": _rounded(phases.busy_s),
        "peak_mb": _peak_mb(),
    }


def _open(run: SlideRun, stack: ExitStack) -> SlideModel:
    return stack.enter_context(ServedModel(run.address, run.model)) if run.address else LocalModel(run.repository, run.model)


def _segment(slide: Path, model: SlideModel, output: Path, options: SegmentOptions) -> SlideSummary:
    summary = segment_slide(slide, model, output, options, lambda done, total: None)
    assert summary is not None  # nothing is skipped here
    return summary


def figures_of(summaries: Sequence[SlideSummary], seconds: float, cpu_s: float) -> dict[str, Any]:
    """Counts and rates of finished slides. mm² are the slides' whole area, glass included."""
    tiles = sum(summary.tissue_tiles for summary in summaries)
    area_mm2 = sum(_area_mm2(summary) for summary in summaries)
    laps: dict[str, float] = {}
    for summary in summaries:
        for name, lap_s in summary.seconds.items():
            laps[name] = round(laps.get(name, 0.0) + lap_s, 3)
    return {
        "slides": len(summaries),
        "tissue_tiles": tiles,
        "seconds": round(seconds, 3),
        "cpu_s": round(cpu_s, 3),
        "tiles_per_s": round(tiles / seconds, 2),
        "mm2_per_s": round(area_mm2 / seconds, 3),
        "slides_per_h": round(len(summaries) / seconds * 3600, 1),
        "laps": laps,
    }


def _area_mm2(summary: SlideSummary) -> float:
    (width, height), (mpp_x, mpp_y) = summary.size_px, summary.mpp
    return width * mpp_x * height * mpp_y / 1e6


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in sorted(values.items(), key=lambda item: -item[1])}


def _peak_mb() -> float:
    """The kernel's own account of this process, not a sample."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6, 1)
