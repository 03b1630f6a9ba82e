"""Callers of every language for minutes, that stop waiting at random, while stubs and servers are killed: memory, wrong answers and recovery as JSON.

python -m benchmarks.soak_clients --minutes 10 --output benchmarks/results/soak-clients.json
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from clients.errors import ClientError
from clients.tile_client import TileClient
from serving.command import FAILED, run
from serving.embedded import EmbeddedTriton
from serving.errors import ServingError
from serving.restarts import Supervision

from .errors import BenchmarkError
from .node_build import build_node_client
from .soak import Sample, kill, measure, memories, resident_mb
from .soak_callers import AsyncCaller, Caller, Habits, Known, NodeCaller, SyncCaller, sum_of
from .soak_trend import Trend, trend

PROGRAM = "soak_clients"
_WARM_UP = 0.2  # of the time: pools, caches and allocators fill
KEPT = "futures per abandoned call"


@dataclass(frozen=True)
class SoakClients:
    """Load a server by all clients, kill its parts, compare every answer; exits with 1 where one was wrong or missing, or memory kept."""

    minutes: float = 10.0
    """How long."""
    repository: Path = Path("model_repository")
    """Model repository."""
    model: str = "default"
    """Name in front of `_segment`."""
    sync: int = 3
    """Callers with TileClient, each a thread."""
    asynchronous: int = 2
    """Callers with AsyncTileClient, each a loop."""
    node: int = 3
    """Callers in Node.js, each a process."""
    batches: tuple[int, ...] = (1, 3, 8, 70)
    """Tiles of a call, in turn; one above the server's limit is split."""
    abandoned: float = 0.2
    """Share of the calls that stop waiting after at most 0.3 s. gRPC sees no cancel: Triton before 2.53 can crash on one."""
    kills: int = 4
    """kill -9, evenly over the first half of the time, a stub and the server in turn; in the rest the memory is judged."""
    sample_s: float = 5.0
    """Seconds between two looks at the memory."""
    output: Path | None = None
    """JSON file of the result; standard output has it in any case."""
    seed: int = 0


@dataclass(frozen=True)
class ClientSample(Sample):
    """And what the Python callers hold.

    Attributes:
        futures: of threads and of loops, tasks among them, that this process holds: what a call keeps hangs on one of them, whatever the
            allocator does with the pages.
        abandoned: calls until then.
    """

    futures: int
    abandoned: int


def main(argv: Sequence[str]) -> int:
    """Measure, print JSON and write it where asked; returns the exit code."""
    options = tyro.cli(SoakClients, args=list(argv), prog=f"python -m benchmarks.{PROGRAM}")
    result = soak(options)
    text = json.dumps(result, indent=2)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0 if is_good(result) else FAILED


def soak(options: SoakClients) -> dict[str, Any]:
    """Everything, in order.

    Raises:
        ServingError, ClientError: the model cannot be served, or is given up.
        BenchmarkError: the Node.js client cannot be built.
    """
    logging.basicConfig(format=f"{PROGRAM}: %(asctime)s %(message)s", level=logging.WARNING)
    supervision = Supervision(restarts=options.kills + 5, within_s=60 * options.minutes + 60, waits_s=(0.0,))
    with tempfile.TemporaryDirectory(prefix="soak_clients.") as folder:
        package = build_node_client(Path(folder)) if options.node else Path(folder)
        with EmbeddedTriton(options.repository, [f"{options.model}_segment"], supervision=supervision) as server:
            known = ask_known(server.address, options)
            known.write(Path(folder))
            callers = make_callers(server.address, options, known, package, Path(folder))
            for caller in callers:
                caller.start()
            samples: list[ClientSample] = []
            try:
                kills = watch(options, server, callers, samples)
            finally:
                for caller in callers:
                    caller.finish()
            return report(options, server, callers, samples, kills)


def ask_known(address: str, options: SoakClients) -> Known:
    """Tiles with their answers before anything is killed, each asked for by itself."""
    count = 2 * max(options.batches)
    with TileClient(address, options.model) as client:
        side = client.contract().task.tile_px
        tiles = np.random.default_rng(options.seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        answers = [client.segment(tiles[index : index + 1]) for index in range(count)]
    return Known(tiles, np.concatenate([answer.labels for answer in answers]), np.concatenate([answer.levels for answer in answers]))


def make_callers(address: str, options: SoakClients, known: Known, package: Path, folder: Path) -> list[Caller]:
    """Of every form as many as the options say."""
    habits, model = Habits(options.batches, options.abandoned), options.model
    seeds = iter(range(1000 * options.seed, 1000 * options.seed + 1000))
    callers: list[Caller] = [SyncCaller(f"sync {number}", address, model, known, habits, next(seeds)) for number in range(options.sync)]
    callers += [AsyncCaller(f"async {number}", address, model, known, habits, next(seeds)) for number in range(options.asynchronous)]
    callers += [NodeCaller(f"node {number}", package, address, model, folder, habits, next(seeds)) for number in range(options.node)]
    return callers


def watch(options: SoakClients, server: EmbeddedTriton, callers: Sequence[Caller], samples: list[ClientSample]) -> int:
    """Until the time is over, or a caller ended: look at the memory, and kill when a kill is due; returns how many it killed."""
    choose = random.Random(options.seed)
    start_s, killed = time.monotonic(), 0
    while (passed_s := time.monotonic() - start_s) < 60 * options.minutes and all(caller.counts.error is None for caller in callers):
        server.require_running()
        if killed < options.kills and passed_s >= kill_time_s(options, killed):
            killed += kill(server, stub=killed % 2 == 0, choose=choose)
        elif len(server.restarts) == killed and (sample := measure_all(server, callers, passed_s)) is not None:
            samples.append(sample)
            print(f"{PROGRAM}: {passed_s:5.0f} s  {sum_of(callers)}; MB: {sample.process_mb}", file=sys.stderr)
        time.sleep(options.sample_s)
    return killed


def kill_time_s(options: SoakClients, killed: int) -> float:
    """When the next kill is due, after so many: within the first half."""
    return 30 * options.minutes * (killed + 1) / max(options.kills, 1)


def measure_all(server: EmbeddedTriton, callers: Sequence[Caller], time_s: float) -> ClientSample | None:
    """The server's processes, this one and those of Node.js; None where one ended meanwhile."""
    sample = measure(server, time_s)
    pids = {caller.name: caller.pid for caller in callers if isinstance(caller, NodeCaller)}
    try:
        node_mb = {name: resident_mb(pid) for name, pid in pids.items() if pid is not None}
    except (OSError, KeyError):
        return None
    if sample is None or len(node_mb) != len(pids):
        return None
    mb = sample.process_mb | node_mb
    return ClientSample(sample.time_s, sample.run, mb, count_futures(), python_abandoned(callers))


def count_futures() -> int:
    """Also those that only the garbage collector would find."""
    # By its type: isinstance() would ask each object for its class, and some answer with a warning (torch's deprecated names).
    return sum(issubclass(type(thing), concurrent.futures.Future | asyncio.Future) for thing in gc.get_objects())


def python_abandoned(callers: Sequence[Caller]) -> int:
    """Calls of this process that nobody waited for."""
    return sum(caller.counts.abandoned for caller in callers if not isinstance(caller, NodeCaller))


def trends(samples: Sequence[ClientSample]) -> dict[str, Trend]:
    """Of those who are never killed, after the warm-up: MB an hour of each process, and the Python callers' futures for each abandoned call."""
    if not samples:
        return {}
    warm = [sample for sample in samples if sample.time_s >= _WARM_UP * samples[-1].time_s]
    found = {KEPT: trend([sample.abandoned for sample in warm], [sample.futures for sample in warm])}
    for name in warm[0].process_mb:
        if name == "client" or name.startswith("node "):
            hours = [sample.time_s / 3600 for sample in warm]
            found[f"{name}, MB an hour"] = trend(hours, [sample.process_mb[name] for sample in warm])
    return {name: line for name, line in found.items() if line is not None}


def report(
    options: SoakClients, server: EmbeddedTriton, callers: Sequence[Caller], samples: Sequence[ClientSample], kills: int
) -> dict[str, Any]:
    """What is written; `lost` are calls that ended with an error or never did."""
    total = sum_of(callers)
    return {
        "command": f"python -m benchmarks.{PROGRAM} --minutes {options.minutes:g} --kills {options.kills} --model {options.model}",
        "triton": server.snapshot().version,
        "minutes": options.minutes,
        **total,
        "lost": total["sent"] - total["answered"] - total["abandoned"],
        "callers": {caller.name: asdict(caller.counts) for caller in callers},
        "kills": kills,
        "restarts": [asdict(restart) for restart in server.restarts],
        "memory": {name: asdict(memory) for name, memory in memories(samples).items()},
        "trends": {name: asdict(line) for name, line in trends(samples).items()},
        "samples": [asdict(sample) for sample in samples],
    }


def is_good(result: dict[str, Any]) -> bool:
    """Nothing wrong, nothing lost, nothing kept, everybody answered, and every kill recovered from."""
    kept = result["trends"].get(KEPT)
    if kept is not None and Trend(**kept).is_at_least(1):
        return False
    every = all(counts["answered"] > 0 and counts["error"] is None for counts in result["callers"].values())
    return every and result["wrong"] == 0 and result["lost"] == 0 and len(result["restarts"]) == result["kills"]


if __name__ == "__main__":
    sys.exit(run(PROGRAM, lambda: main(sys.argv[1:]), (ClientError, ServingError, BenchmarkError, OSError)))
