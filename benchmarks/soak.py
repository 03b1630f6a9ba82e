"""Hours of mixed load in minutes: callers of every size at the limit, stubs and servers killed in between; memory, losses and recovery as JSON.

python -m benchmarks.soak --minutes 30 --output soak.json
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro

from clients.errors import ClientError
from serving.command import FAILED, run
from serving.embedded import EmbeddedTriton
from serving.errors import ServingError
from serving.processes import PROC, server_of, stub_instance, stubs_of
from serving.restarts import Supervision

from .soak_load import Caller, callers_of, entries_of

PROGRAM = "soak"


@dataclass(frozen=True)
class Soak:
    """Load a server for a while, kill its parts, and measure; exits with 1 where a request was lost, or an answer is another than before."""

    minutes: float = 30.0
    """How long."""
    repository: Path = Path("model_repository")
    """Model repository."""
    model: str = "default"
    """In front of `_segment`, `_cam` and `_segment_image`; each way in gets a caller of its own."""
    batches: tuple[int, ...] = (1, 3, 8, 16)
    """Tiles per request, in turn."""
    kills: int = 4
    """Kills, evenly over the first third of the time, a stub and the server in turn; in the rest the memory is judged."""
    sample_s: float = 10.0
    """Seconds between two looks at the memory."""
    output: Path | None = None
    """JSON file of the result; standard output has it in any case."""
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """Private resident memory of each process at one time.

    Attributes:
        run: counts the restarts.
        process_mb: `client` (this process, its callers and its supervisor), `triton`, and each stub by its model instance.
    """

    time_s: float
    run: int
    process_mb: dict[str, float]


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Soak, args=argv, prog=PROGRAM)
    return run(PROGRAM, lambda: soak(options), (ServingError, ClientError, OSError))


def soak(options: Soak) -> int:
    logging.basicConfig(format=f"{PROGRAM}: %(asctime)s %(message)s", level=logging.WARNING)
    stop, samples = threading.Event(), list[Sample]()
    supervision = Supervision(restarts=options.kills + 5, within_s=60 * options.minutes + 60, waits_s=(0.0,))
    with EmbeddedTriton(options.repository, entries_of(options.model), supervision=supervision) as server:
        callers = callers_of(server.address, options.model, options.batches, options.seed, stop)
        for caller in callers:
            caller.thread.start()
        try:
            watch(options, server, callers, samples)
        finally:
            stop.set()
            for caller in callers:
                caller.thread.join()
        result = report(options, server, callers, samples)
    text = json.dumps(result, indent=2)
    print(text)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text + "\n", encoding="utf-8")
    for caller in callers:
        if caller.error is not None:
            print(f"{PROGRAM}: {caller.error}", file=sys.stderr)
    return FAILED if result["lost"] or result["wrong"] else 0


def watch(options: Soak, server: EmbeddedTriton, callers: Sequence[Caller], samples: list[Sample]) -> None:
    """Until the time is over, or a caller has lost a request: look at the memory, and kill when a kill is due."""
    choose = random.Random(options.seed)
    start_s, killed = time.monotonic(), 0
    while (passed_s := time.monotonic() - start_s) < 60 * options.minutes and all(caller.error is None for caller in callers):
        server.require_running()
        if killed < options.kills and passed_s >= kill_time_s(options, killed):
            if kill(server, stub=killed % 2 == 0, choose=choose):
                killed += 1
        elif len(server.restarts) == killed:  # while it starts, its memory says nothing
            sample = measure(server, passed_s)
            if sample is not None:
                samples.append(sample)
                shown = ", ".join(f"{name} {process_mb:.0f}" for name, process_mb in sample.process_mb.items())
                print(f"{PROGRAM}: {passed_s:5.0f} s  {sum(caller.tiles for caller in callers)} tiles; MB: {shown}", file=sys.stderr)
        time.sleep(options.sample_s)


def kill_time_s(options: Soak, killed: int) -> float:
    """When the next kill is due, after so many: within the first third."""
    return 20 * options.minutes * (killed + 1) / max(options.kills, 1)


def kill(server: EmbeddedTriton, stub: bool, choose: random.Random) -> bool:
    """kill -9; False where there is nothing to kill at the moment."""
    try:
        triton = server_of(server.pid)
    except ServingError:
        return False
    stubs = () if triton is None else stubs_of(triton.pid)
    if triton is None or not stubs:
        return False
    os.kill(choose.choice(stubs).pid if stub else triton.pid, signal.SIGKILL)
    return True


def measure(server: EmbeddedTriton, time_s: float) -> Sample | None:
    """None where a process ended meanwhile."""
    try:
        triton = server_of(server.pid)
        if triton is None:
            return None
        stubs = {stub_instance(stub): resident_mb(stub.pid) for stub in stubs_of(triton.pid)}
        process_mb = {"client": resident_mb(os.getpid()), "triton": resident_mb(triton.pid), **dict(sorted(stubs.items()))}
        return Sample(round(time_s, 1), len(server.restarts), process_mb)
    except (OSError, KeyError, ServingError):  # a process that is ending has no memory to tell of
        return None


def resident_mb(pid: int) -> float:
    """Resident memory without what it shares by files in memory: the tensors in /dev/shm would count in both processes."""
    fields = dict(line.split(":", 1) for line in (PROC / str(pid) / "status").read_text().splitlines())
    return round(int(fields["RssAnon"].split()[0]) / 1024, 1)


def report(options: Soak, server: EmbeddedTriton, callers: Sequence[Caller], samples: Sequence[Sample]) -> dict[str, object]:
    sent, answered = sum(caller.sent for caller in callers), sum(caller.answered for caller in callers)
    return {
        "command": f"python -m benchmarks.soak --minutes {options.minutes:g} --kills {options.kills} --model {options.model}",
        "triton": server.snapshot().version,
        "minutes": options.minutes,
        "requests": sent,
        "answered": answered,
        "lost": sent - answered,
        "wrong": sum(caller.wrong for caller in callers),
        "answers": {caller.thread.name: caller.answered for caller in callers},
        "tiles": sum(caller.tiles for caller in callers),
        "restarts": [asdict(restart) for restart in server.restarts],
        "memory": {name: asdict(memory) for name, memory in memories(samples).items()},
        "samples": [asdict(sample) for sample in samples],
    }


@dataclass(frozen=True)
class Memory:
    """One process over the longest time without a restart, private resident memory.

    Attributes:
        mb_per_hour: least squares over the second half of that time, when caches are filled.
    """

    start_mb: float
    middle_mb: float
    end_mb: float
    mb_per_hour: float


def memories(samples: Sequence[Sample]) -> dict[str, Memory]:
    """Process → its memory; empty for fewer than eight samples."""
    runs = [[sample for sample in samples if sample.run == run] for run in {sample.run for sample in samples}]
    longest = max(runs, key=len, default=[])
    if len(longest) < 8:
        return {}
    middle = len(longest) // 2
    times_s = [sample.time_s for sample in longest[middle:]]
    found = {}
    for name in longest[0].process_mb:
        values_mb = [sample.process_mb[name] for sample in longest]
        slope, _ = np.polyfit(times_s, values_mb[middle:], 1)
        found[name] = Memory(values_mb[0], values_mb[middle], values_mb[-1], round(float(slope) * 3600, 1))
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
