"""What serving costs beside the network: CPU-seconds per tile of client, server and stubs against the same engine in this process, by turns.

    python -m benchmarks.backend_cost [--model default_segment] [--pairs 15]

CPU-seconds, not seconds: what serving takes from everything else, whatever the machine is doing. A turn is one after the other, both from the
same tiles in memory, and the median is over the ratios of the turns.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro

from clients.errors import ClientError
from clients.local_model import LocalModel
from clients.pipeline import TileModel
from clients.served_model import ServedModel
from serving.command import run
from serving.embedded import EmbeddedTriton
from serving.errors import ServingError

PROGRAM = "backend_cost"
_SEED = 0


@dataclass(frozen=True)
class CostConfig:
    """CPU-seconds per tile of the served slide model, and of the same engine in process."""

    model: str = "default_segment"
    """The entry whose slide model is measured."""
    repository: Path = Path("model_repository")
    """Model repository that holds it."""
    batch: int = 8
    """Tiles of a request."""
    batches: int = 60
    """Of a turn, on each side."""
    pairs: int = 15
    """Turns."""
    in_flight: int = 1
    """Requests on the way at a time; with more than one, the server joins them to larger batches."""


@dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes:
        served_ms, in_process_ms: CPU-milliseconds per tile, medians over the turns.
        ratio: median over the turns of served / in process.
        ratio_range: the least and the greatest of these.
        engine: of both sides, with its version.
        load: of the machine over the last minute, before and after.
    """

    model: str
    engine: str
    batch: int
    pairs: int
    served_ms: float
    in_process_ms: float
    ratio: float
    ratio_range: tuple[float, float]
    load: tuple[float, float]


def measure(config: CostConfig) -> Cost:
    """Start the server, warm both sides up, and take turns.

    Raises:
        ServingError, ServerError: the model cannot be served, or does not answer.
    """
    before = os.getloadavg()[0]
    with EmbeddedTriton(config.repository, [config.model]) as server, ServedModel(server.address, config.model) as client:
        engine = LocalModel(config.repository, config.model)
        tiles = _tiles(config.batch, client.contract.task.tile_px)
        serve, local = _repeated(client, tiles, config), _repeated(engine, tiles, config)
        serve(), local()
        turns = [(_cpu_s(serve, server.pid), _cpu_s(local, server.pid)) for _ in range(config.pairs)]
    ratios = [served / here for served, here in turns]
    count = config.batch * config.batches / 1000
    served_ms, here_ms = (statistics.median(side) / count for side in zip(*turns, strict=True))
    load = (before, os.getloadavg()[0])
    spread = (min(ratios), max(ratios))
    return Cost(config.model, engine.engine, config.batch, config.pairs, served_ms, here_ms, statistics.median(ratios), spread, load)


def _repeated(model: TileModel, tiles: npt.NDArray[np.uint8], config: CostConfig) -> Callable[[], None]:
    def call() -> None:
        for _ in model.stream(((index, tiles) for index in range(config.batches)), config.in_flight):
            pass

    return call


def _tiles(count: int, tile_px: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(_SEED).integers(0, 256, (count, tile_px, tile_px, 3), dtype=np.uint8)


def _cpu_s(call: Callable[[], None], server_pid: int) -> float:
    """CPU-seconds of this process and of everything below the server's watchdog, in nanosecond counters."""
    before = _spent_s(server_pid)
    call()
    return _spent_s(server_pid) - before


def _spent_s(server_pid: int) -> float:
    return time.process_time() + sum(_process_ns(pid) for pid in _family(server_pid)) / 1e9


def _process_ns(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks)


def _family(root: int) -> list[int]:
    """The process and all below it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (status := _parent(folder)) is not None:
            parents[int(folder.name)] = status
    found = [root]
    for pid in found:  # grows meanwhile
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _parent(folder: Path) -> int | None:
    try:
        return int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # it ended meanwhile: none of ours


def main(argv: Sequence[str]) -> int:
    """Measure and print JSON; returns the exit code."""
    cost = measure(tyro.cli(CostConfig, prog=f"python -m benchmarks.{PROGRAM}", args=list(argv)))
    print(json.dumps(asdict(cost), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(run(PROGRAM, lambda: main(sys.argv[1:]), (ClientError, ServingError)))
