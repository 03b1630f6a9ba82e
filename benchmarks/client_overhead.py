"""What `TileClient` costs beside bare tritonclient: CPU-seconds of the client's process for the same tiles, batch and window, by turns.

    python -m benchmarks.client_overhead [--model default] [--pairs 41] [--output benchmarks/results/client-overhead.json]

CPU-seconds, not seconds: what the client takes from everything else, whatever server and machine are doing. The server is a process of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
import tyro

from clients.errors import ClientError
from clients.served_model import CHANNEL_ARGS
from clients.tile_client import TileClient
from serving.command import run
from serving.contract import LABELS, PROBABILITIES, TILE
from serving.embedded import EmbeddedTriton
from serving.errors import ServingError

from .errors import BenchmarkError

PROGRAM = "client_overhead"
GOAL = 0.05  # issue 8
_OUTPUTS = (LABELS, PROBABILITIES)
_SEED = 0

Tiles = npt.NDArray[np.uint8]
Answer = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Turn = tuple[float, float]


@dataclass(frozen=True)
class OverheadConfig:
    """CPU-seconds of TileClient against those of bare tritonclient."""

    model: str = "default"
    """Name in front of `_segment`; what the network costs does not count, but is waited for."""
    repository: Path = Path("model_repository")
    """Model repository that holds it."""
    batches: tuple[int, ...] = (1, 16, 64)
    """Tiles of a request; each is measured for itself."""
    tiles: int = 64
    """Of a turn, on each side; at least a request for each place in the window."""
    in_flight: int = 2
    """The window: requests on the way at a time."""
    pairs: int = 41
    """Turns, after one that warms up; which side begins changes."""
    output: Path | None = None
    """JSON file of the result; standard output has it in any case."""


@dataclass(frozen=True)
class Overhead:
    """One way of calling, measured.

    Attributes:
        way: "a call for each request", of as many threads as the window is wide on both sides, or "one call": all tiles at once, split by `TileClient`.
        requests: of a turn.
        bare_ms, ours_ms: CPU-milliseconds of a request in the client's process, medians over the turns.
        overhead: median over the turns of ours / bare − 1.
        quartiles: the first and the third of the same.
    """

    way: str
    batch: int
    requests: int
    pairs: int
    bare_ms: float
    ours_ms: float
    overhead: float
    quartiles: tuple[float, float]


def measure(config: OverheadConfig) -> dict[str, Any]:
    """Start the server and measure every batch.

    Raises:
        ServingError, ClientError: the model cannot be served, or does not answer.
        BenchmarkError: both sides do not get the same answers.
    """
    entry = f"{config.model}_segment"
    before = os.getloadavg()[0]
    with EmbeddedTriton(config.repository, [entry]) as server:
        rows = [row for batch in config.batches for row in measure_batch(server.address, config, batch)]
        version = server.snapshot().version
    return {
        "command": f"python -m benchmarks.{PROGRAM} --model {config.model} --batches {' '.join(map(str, config.batches))} "
        f"--tiles {config.tiles} --in-flight {config.in_flight} --pairs {config.pairs}",
        "triton": version,
        "load": (round(before, 2), round(os.getloadavg()[0], 2)),
        "goal": GOAL,
        "rows": [asdict(row) for row in rows],
    }


def measure_batch(address: str, config: OverheadConfig, batch: int) -> list[Overhead]:
    """One size of request against a server that runs; of the server's limit, `TileClient` also gets all tiles in one call."""
    count = max(config.in_flight, config.tiles // batch)
    with (
        TileClient(address, config.model, in_flight=config.in_flight) as ours,
        grpcclient.InferenceServerClient(address, channel_args=CHANNEL_ARGS) as bare,
        ThreadPoolExecutor(config.in_flight) as callers,
    ):
        entry = ours.entry("segment")
        tiles = make_tiles(count * batch, entry.contract.task.tile_px)
        parts = [tiles[start : start + batch] for start in range(0, len(tiles), batch)]

        def ask_bare(part: Tiles) -> Answer:
            return infer_bare(bare, entry.name, part)

        def ask_ours(part: Tiles) -> Answer:
            result = ours.segment(part)
            return result.labels, result.levels

        def side(ask: Callable[[Tiles], Answer]) -> Callable[[], list[Answer]]:
            return lambda: list(callers.map(ask, parts))

        ways = {"a call for each request": side(ask_ours)}
        if batch == entry.max_batch:
            ways["one call"] = lambda: [ask_ours(tiles)]
        return [overhead_of(way, batch, count, side(ask_bare), call, config.pairs) for way, call in ways.items()]


def overhead_of(
    way: str, batch: int, count: int, bare: Callable[[], list[Answer]], ours: Callable[[], list[Answer]], pairs: int
) -> Overhead:
    """Warm both up, hold their answers against one another, and take turns.

    Raises:
        BenchmarkError: the answers differ.
    """
    require_same(way, bare(), ours())
    return summarize(way, batch, count, take_turns(bare, ours, pairs))


def take_turns(
    bare: Callable[[], object], ours: Callable[[], object], pairs: int, clock: Callable[[], float] = time.process_time
) -> list[Turn]:
    """(bare, ours) in seconds of the clock; every second turn begins with ours, so that neither is always first."""

    def spent(call: Callable[[], object]) -> float:
        start_s = clock()
        call()
        return clock() - start_s

    turns: list[Turn] = []
    for number in range(pairs):
        if number % 2 == 0:
            bare_s = spent(bare)
            turns.append((bare_s, spent(ours)))
        else:
            ours_s = spent(ours)
            turns.append((spent(bare), ours_s))
    return turns


def summarize(way: str, batch: int, count: int, turns: Sequence[Turn]) -> Overhead:
    """Medians over the turns; ratios are of a turn, since the machine may be slower in the next.

    Raises:
        BenchmarkError: fewer than two turns have no quartiles.
    """
    if len(turns) < 2:
        raise BenchmarkError(f"pairs: expected at least 2, got {len(turns)}: fewer have no quartiles")
    extra = [ours_s / bare_s - 1 for bare_s, ours_s in turns]
    first, middle, third = (round(value, 4) for value in statistics.quantiles(extra, n=4, method="inclusive"))
    bare_ms, ours_ms = (round(statistics.median(side) / count * 1e3, 4) for side in zip(*turns, strict=True))
    return Overhead(way, batch, count, len(turns), bare_ms, ours_ms, middle, (first, third))


def infer_bare(client: grpcclient.InferenceServerClient, model: str, tiles: Tiles) -> Answer:
    """What a caller without `TileClient` writes."""
    given = grpcclient.InferInput(TILE, tiles.shape, "UINT8")
    given.set_data_from_numpy(tiles)
    answer = client.infer(model, [given], outputs=[grpcclient.InferRequestedOutput(name) for name in _OUTPUTS])
    return answer.as_numpy(LABELS), answer.as_numpy(PROBABILITIES)


def require_same(way: str, bare: Sequence[Answer], ours: Sequence[Answer]) -> None:
    """Refuse to compare what does not do the same."""
    for name, index in ((LABELS, 0), (PROBABILITIES, 1)):
        if not np.array_equal(np.concatenate([part[index] for part in bare]), np.concatenate([part[index] for part in ours])):
            raise BenchmarkError(f"{way}: expected the same {name} of both sides, got others: one of the clients is wrong")


def make_tiles(count: int, tile_px: int) -> Tiles:
    """Dark noise: what the tiles show costs the client nothing."""
    return np.random.default_rng(_SEED).integers(0, 128, (count, tile_px, tile_px, 3), dtype=np.uint8)


def main(argv: Sequence[str]) -> int:
    """Measure, print JSON and write it where asked; returns the exit code."""
    config = tyro.cli(OverheadConfig, prog=f"python -m benchmarks.{PROGRAM}", args=list(argv))
    text = json.dumps(measure(config), indent=2)
    print(text)
    if config.output is not None:
        config.output.parent.mkdir(parents=True, exist_ok=True)
        config.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run(PROGRAM, lambda: main(sys.argv[1:]), (ClientError, ServingError, BenchmarkError)))
