"""What a slide costs the client of a served model: throughput, CPU by phase, memory, and what a resumed slide sends again.

    python -m benchmarks.slide_cost [--parts throughput cpu memory resume] [--large] [--json FILE]

CPU-seconds are those of the client's process, all threads, whatever the machine is doing; the model of `cpu`, `memory` and `resume` is a server
in another process that answers at once. `throughput` goes through the embedded Triton, by turns: seconds, of which the ratios alone mean something.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from clients.errors import ClientError
from clients.local_model import LocalModel
from clients.segment import SegmentOptions, SlideModel, segment_slide
from clients.served_model import ServedModel
from clients.summary import SlideSummary
from serving.command import run
from serving.embedded import EmbeddedTriton
from serving.entry import entry_of
from serving.errors import ServingError

from .bench.slide_phases import CALLS
from .cpu_phases import Phases
from .null_triton import NULL_MODEL, null_server
from .recorder import Recorder
from .repeated_slide import write_repeated

PROGRAM = "slide_cost"
Part = Literal["throughput", "cpu", "memory", "resume"]


@dataclass(frozen=True)
class CostConfig:
    """What segmenting costs the client."""

    parts: tuple[Part, ...] = ("throughput", "cpu", "memory", "resume")
    """What to measure."""
    model: str = "demo"
    """Whose throughput; the other parts know no network."""
    repository: Path = Path("model_repository")
    """Where it is."""
    width_px: int = 4096
    """Of the generated slides, at the model's scale."""
    rows_px: int = 3072
    """Of the slide of `throughput`, `cpu` and `resume`."""
    memory_rows_px: tuple[int, ...] = (10_000, 40_000)
    """Of the slides of `memory`."""
    large: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Also the memory of 40,000 × 40,000 pixels: a file of 0.7 GB, minutes."""
    repeats: int = 3
    """Turns of `throughput`, and runs of `cpu`; medians are told."""
    batch: int | None = None
    """Tiles per request, as of `histoserve segment`."""
    overlap: float = 0.0
    """As of `histoserve segment`."""
    json: Path | None = None
    """Also write the figures here."""


# ---- CPU by phase


def measure_cpu(slide: Path, address: str, config: CostConfig, output: Path) -> dict[str, Any]:
    """CPU-seconds per 1,000 tiles by phase: medians over the repeats, after one run that warms up."""
    runs: list[dict[str, float]] = []
    with ServedModel(address, NULL_MODEL) as client:
        for repeat in range(config.repeats + 1):
            phases = Phases()
            start_s = time.process_time()
            with phases.wrap(CALLS):
                summary = _segment(slide, client, config, output / f"cpu-{repeat}")
            total_s = time.process_time() - start_s
            rest_s = total_s - sum(phases.cpu_s.values())
            phases.cpu_s["send and receive"] = phases.cpu_s.get("send and receive", 0.0) + rest_s
            runs.append({phase: cpu_s / summary.tissue_tiles * 1e3 for phase, cpu_s in (phases.cpu_s | {"all": total_s}).items()})
    per_1000 = {phase: round(statistics.median(run.get(phase, 0.0) for run in runs[1:]), 3) for phase in runs[-1]}
    return {"tiles": summary.tissue_tiles, "cpu_s_per_1000_tiles": per_1000}


# ---- throughput


def measure_throughput(slide: Path, config: CostConfig, output: Path) -> dict[str, Any]:
    """Tiles per second of a whole slide ("segment"), and of it while tiles are on the way ("sending": in a batch of slides the rest overlaps with
    the next one's), against the same tiles from memory, by turns, through the same server ("tiles") and in this process ("local").
    """
    entry = entry_of(config.model)
    with EmbeddedTriton(config.repository, [entry]) as server, ServedModel(server.address, entry) as client:
        local = LocalModel(config.repository, entry)
        batches = _batches_of(slide, client, config, output)
        tiles = sum(count for count, _ in batches)
        turns = []
        for turn in range(config.repeats + 1):
            start_s = time.monotonic()
            summary = _segment(slide, client, config, output / f"turn-{turn}")
            whole_s = time.monotonic() - start_s
            tiles_s = _seconds(lambda: _exhaust(client.stream(batches, SegmentOptions().in_flight)))
            local_s = _seconds(lambda: _exhaust(local.stream(batches, 1)))
            turns.append({"segment": whole_s, "sending": summary.seconds["segment"], "tiles": tiles_s, "local": local_s})
        del turns[0]  # it warms up
    return {
        "model": entry,
        "tiles": tiles,
        "tiles_per_s": {name: round(tiles / statistics.median(turn[name] for turn in turns), 1) for name in turns[0]},
        "segment_of_tiles": _spread([turn["tiles"] / turn["segment"] for turn in turns]),
        "sending_of_tiles": _spread([turn["tiles"] / turn["sending"] for turn in turns]),
        "segment_of_local": _spread([turn["local"] / turn["segment"] for turn in turns]),
    }


def _batches_of(slide: Path, client: ServedModel, config: CostConfig, output: Path) -> list[tuple[int, npt.NDArray[np.uint8]]]:
    """What `segment` would send, in memory: tiles that count, and all of a batch with its padding."""
    recorded: list[tuple[int, npt.NDArray[np.uint8]]] = []
    recorder = Recorder(client, lambda tag, tiles: recorded.append((len(tag), tiles.copy())))
    _segment(slide, recorder, config, output / "recorded")
    return recorded


def _exhaust(answers: Iterator[Any]) -> None:
    for _ in answers:
        pass


def _seconds(call: Callable[[], object]) -> float:
    start_s = time.monotonic()
    call()
    return time.monotonic() - start_s


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 3), "least": round(min(values), 3), "greatest": round(max(values), 3)}


# ---- memory


def measure_memory(folder: Path, address: str, config: CostConfig) -> dict[str, float]:
    """Peak resident MB of a process that segments, by the size of the slide; "start" is one that only connects."""
    sizes = [(config.width_px, rows) for rows in config.memory_rows_px] + [(40_000, 40_000)] * config.large
    peaks = {"start": _peak_mb(None, address, config, folder)}
    for width, height in sizes:
        slide = folder / "memory.tiff"
        write_repeated(slide, width, height)
        peaks[f"{width}×{height}"] = _peak_mb(slide, address, config, folder / f"memory-{width}-{height}")
        slide.unlink()
    return peaks


def _peak_mb(slide: Path | None, address: str, config: CostConfig, output: Path) -> float:
    with futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_segment_alone, slide, address, config, output).result()


def _segment_alone(slide: Path | None, address: str, config: CostConfig, output: Path) -> float:
    with ServedModel(address, NULL_MODEL) as client:
        if slide is not None:
            _segment(slide, client, config, output)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)


# ---- resume


class _StopError(Exception):
    """The kill of a slide in the middle."""


def measure_resume(slide: Path, address: str, config: CostConfig, output: Path) -> dict[str, int]:
    """Tiles sent by a run that stops after two thirds, and by the one that goes on; `again`: of finished rows, sent twice."""

    def stop(done: int, total: int) -> None:
        if done > total * 2 / 3:
            raise _StopError

    sent: list[list[tuple[int, int]]] = [[], []]
    with ServedModel(address, NULL_MODEL) as client:
        with suppress(_StopError):
            _segment(slide, Recorder(client, lambda tag, tiles: sent[0].extend(tile.place for tile in tag)), config, output, stop)
        recorder = Recorder(client, lambda tag, tiles: sent[1].extend(tile.place for tile in tag))
        summary = _segment(slide, recorder, config, output)
    finished = set(sorted(sent[0])[: summary.kept_tiles])
    return {
        "tiles": summary.tissue_tiles,
        "sent_before": len(sent[0]),
        "of_finished_strips": summary.kept_tiles,
        "sent_after": len(sent[1]),
        "again": len(finished & set(sent[1])),
    }


def _segment(
    slide: Path, model: SlideModel, config: CostConfig, output: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> SlideSummary:
    summary = segment_slide(slide, model, output, SegmentOptions(overlap=config.overlap, batch=config.batch), progress)
    assert summary is not None  # nothing is skipped here
    return summary


# ---- the command


def measure(config: CostConfig) -> dict[str, Any]:
    """The parts that are asked for, by name.

    Raises:
        ClientError: a slide, or the server.
        ServingError: the embedded server does not start.
    """
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        slide = folder / "slide.tiff"
        write_repeated(slide, config.width_px, config.rows_px)
        if "throughput" in config.parts:
            figures["throughput"] = measure_throughput(slide, config, folder)
        with null_server() as address:
            if "cpu" in config.parts:
                figures["cpu"] = measure_cpu(slide, address, config, folder)
            if "memory" in config.parts:
                figures["memory_mb"] = measure_memory(folder, address, config)
            if "resume" in config.parts:
                figures["resume"] = measure_resume(slide, address, config, folder / "resume")
    return figures


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""

    def call() -> int:
        config = tyro.cli(CostConfig, prog=PROGRAM, args=list(argv))
        text = json.dumps(measure(config), indent=2, ensure_ascii=False)
        print(text)
        if config.json:
            config.json.write_text(text + "\n", encoding="utf-8")
        return 0

    return run(PROGRAM, call, (ClientError, ServingError))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
