"""`histoserve bench server`: flags, result file and lines for the terminal. Knows neither loads nor statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from .command_line import command_of, settings_of
from .perf_analyzer import differences, find_perf_analyzer, run_perf_analyzer
from .results import Point, Results
from .served import Served, open_served
from .server_plan import Part, Plan, run_plan
from .server_runs import Runs, Window

KIND = "bench-server"
_PARTS: tuple[Part, ...] = ("closed", "batch", "encoded", "memory", "open", "priority", "slo")


@dataclass(frozen=True)
class Flags:
    """Load a served model and write latency, throughput, errors, where the time went, and what CPU and memory it took.

    Run again with the same flags, it goes on where it was interrupted.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = "default"
    """A model's name or an entry of it, e.g. default or default_cam; a release's ..._slide model measures what slides stream to."""
    server: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """A server that runs; by default the embedded Triton is started on --repository."""
    repository: Path = Path("model_repository")
    """Model repository of the embedded Triton."""
    output: Path = Path("out/bench-server.json")
    """Result file."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure anew, whatever the result file holds."""
    parts: tuple[Part, ...] = _PARTS
    """What to measure; the ends of the closed loop always are."""
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Closed loop: requests on the way at a time."""
    batches: tuple[int, ...] = (1, 4, 16)
    """Tiles per request of `batch`; `memory` takes the greatest."""
    loads: tuple[float, ...] = (0.3, 0.5, 0.7, 0.85, 0.95)
    """Open loop: shares of the highest rate that the closed loop reached; 0.7 is also held against a queue (M/D/c)."""
    slo_ms: float | None = None
    """Also find the highest rate whose latency holds this goal."""
    slo_percentile: float = 99.0
    """The share of all requests that must hold it; failed ones do not."""
    seconds: float = 8.0
    """Of each load; longer where a percentile needs more requests."""
    warm_s: float = 1.5
    """Of each load, before it counts."""
    seed: int = 0
    """Of the arrivals."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        if self.seconds <= 0 or self.warm_s < 0:
            raise ValueError("--seconds: expected more than 0; --warm-s: at least 0")
        if not all(count >= 1 for count in (*self.concurrency, *self.batches)):
            raise ValueError("--concurrency, --batches: expected numbers of at least 1")
        if not all(0 < load < 1 for load in self.loads):
            raise ValueError("--loads: expected shares between 0 and 1; at 1 a queue grows without end")
        if (self.slo_ms is not None and self.slo_ms <= 0) or not 50 <= self.slo_percentile < 100:
            raise ValueError("--slo-ms: expected more than 0; --slo-percentile: 50 or more, below 100")


def run(flags: Flags) -> None:
    """Measure and print.

    Raises:
        BenchError, ServingError, ClientError: what cannot be measured, and why.
    """
    console = Console(highlight=False, soft_wrap=True)
    results = Results.begin(flags.output, KIND, command_of("server", flags), settings_of(flags), fresh=flags.fresh)
    with open_served(flags.model, flags.server, flags.repository) as served:
        results.measure("server", lambda: _server_figures(served))
        plan = Plan(flags.parts, flags.concurrency, flags.batches, flags.loads, flags.slo_ms, flags.slo_percentile)
        runs = Runs(served, Window(flags.seconds, flags.warm_s), flags.seed)
        run_plan(plan, runs, results, lambda point: console.print(as_line(point)))
        _compare(served, results, flags, console)
    for name, value in results.content["ratios"].items():
        console.print(f"{name}: {'not measured' if value is None else f'{value:g}'}")
    console.print(f"{flags.output}: written")


def as_line(point: Point) -> str:
    """One point, for the terminal."""
    if "skipped" in point:
        return f"{point['name']:<14} skipped: {point['skipped']}"
    if "by_priority" in point:
        told = ", ".join(f"{name} p95 {_ms(part['latency_ms']['p95'])}" for name, part in point["by_priority"].items())
        return f"{point['name']:<14} {point['rate']:g}/s: {told}"
    latency = point["latency_ms"]
    shown = "  ".join(f"{level} {_ms(latency[level])}" for level in ("p50", "p95", "p99"))
    errors = "".join(f"  {kind} {count}" for kind, count in point["errors"].items())
    return f"{point['name']:<14} {point['tiles_per_s']:8.1f} tiles/s  {shown}{errors}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _server_figures(served: Served) -> dict[str, Any]:
    return {
        "triton": served.version,
        "model": served.entry.name,
        "tile_px": served.entry.contract.task.tile_px,
        "max_batch": served.entry.max_batch,
    }


def _compare(served: Served, results: Results, flags: Flags, console: Console) -> None:
    """The same closed loop by perf_analyzer, where it is there."""
    program = find_perf_analyzer()
    if program is None:
        console.print("perf_analyzer: not on PATH, no second opinion")
        return
    ours = max((point for name, point in results.points.items() if name.startswith("closed ")), key=lambda point: point["requests_per_s"])
    theirs = results.measure(
        "perf_analyzer", lambda: run_perf_analyzer(program, served.address, served.entry, ours["concurrency"], flags.seconds)
    )
    results.finish(results.content["ratios"] | differences(ours, theirs))
