"""Callers of a soak, in three forms: they ask for tiles whose answers are known, stop waiting now and then, and count. Knows no server process."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from clients.async_tile_client import AsyncTileClient
from clients.call_errors import CallError, DeadlineError
from clients.call_results import Segmentation
from clients.tile_client import TileClient

PATIENCE_S = 300.0  # longer than any restart on a busy machine
_IN_FLIGHT = 2
_LONGEST_S = 0.3  # of those that stop waiting
_END_S = 60.0


@dataclass(frozen=True)
class Known:
    """Tiles with the answers that every caller must get.

    Attributes:
        tiles: uint8 (n, tile_px, tile_px, 3).
        labels, levels: of each tile for itself, as of `Segmentation`.
    """

    tiles: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    levels: npt.NDArray[np.uint8]

    def is_right(self, start: int, result: Segmentation) -> bool:
        """Whether the answer is byte for byte that of the tiles from `start` on."""
        end = start + len(result.labels)
        return np.array_equal(result.labels, self.labels[start:end]) and np.array_equal(result.levels, self.levels[start:end])

    def write(self, folder: Path) -> None:
        """For callers in other languages."""
        for name in ("tiles", "labels", "levels"):
            (folder / f"{name}.bin").write_bytes(getattr(self, name).tobytes())


@dataclass
class Counts:
    """What a caller did.

    Attributes:
        abandoned: requests that it no longer waited for; they were left to finish.
        wrong: answers with another byte.
        error: what ended it early.
    """

    sent: int = 0
    answered: int = 0
    abandoned: int = 0
    wrong: int = 0
    tiles: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Habits:
    """How callers call.

    Attributes:
        batches: tiles of a call, in turn; one above the server's limit is split.
        abandoned: share of the calls that are given up after a moment.
    """

    batches: tuple[int, ...]
    abandoned: float


class Caller(Protocol):
    """Calls from its start to its end."""

    name: str
    counts: Counts

    def start(self) -> None: ...

    def finish(self) -> None:
        """No further call; wait for the last one."""


class Drawn:
    """What a Python caller asks for next, the same from the same seed."""

    def __init__(self, known: Known, habits: Habits, seed: int) -> None:
        self._known, self._habits, self._choose = known, habits, random.Random(seed)

    def next(self, number: int) -> tuple[int, npt.NDArray[np.uint8], float | None]:
        """Start, tiles, and the seconds after which the call is given up."""
        count = self._habits.batches[number % len(self._habits.batches)]
        start = self._choose.randrange(len(self._known.tiles) - count + 1)
        patience_s = self._choose.uniform(0, _LONGEST_S) if self._choose.random() < self._habits.abandoned else None
        return start, self._known.tiles[start : start + count], patience_s


class PythonCaller:
    """Base of both Python forms: a thread, its counts, and when to end."""

    def __init__(self, name: str, address: str, model: str, known: Known, habits: Habits, seed: int) -> None:
        self.name, self.counts = name, Counts()
        self._address, self._model, self._known = address, model, known
        self._drawn = Drawn(known, habits, seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._call()
        except CallError as error:
            self.counts.error = f"{type(error).__name__}: {error}"

    def _call(self) -> None:
        raise NotImplementedError

    def _count(self, start: int, result: Segmentation) -> None:
        self.counts.answered += 1
        self.counts.tiles += len(result.labels)
        self.counts.wrong += not self._known.is_right(start, result)


class SyncCaller(PythonCaller):
    """`TileClient`; gives up by its deadline."""

    def _call(self) -> None:
        with TileClient(self._address, self._model, in_flight=_IN_FLIGHT, patience_s=PATIENCE_S) as client:
            while not self._stop.is_set():
                start, tiles, patience_s = self._drawn.next(self.counts.sent)
                self.counts.sent += 1
                try:
                    self._count(start, client.segment(tiles, deadline_s=patience_s))
                except DeadlineError:
                    self.counts.abandoned += 1


class AsyncCaller(PythonCaller):
    """`AsyncTileClient`; gives up by canceling its task."""

    def _call(self) -> None:
        asyncio.run(self._call_in_turn())

    async def _call_in_turn(self) -> None:
        async with AsyncTileClient(self._address, self._model, in_flight=_IN_FLIGHT, patience_s=PATIENCE_S) as client:
            while not self._stop.is_set():
                start, tiles, patience_s = self._drawn.next(self.counts.sent)
                self.counts.sent += 1
                task = asyncio.create_task(client.segment(tiles))
                if patience_s is not None:
                    await asyncio.sleep(patience_s)
                    task.cancel()
                try:
                    self._count(start, await task)
                except asyncio.CancelledError:
                    self.counts.abandoned += 1


class NodeCaller:
    """`clients/node` in a process of its own; gives up by its deadline.

    Args:
        package: built.
        known: the folder that `Known.write` wrote.
    """

    def __init__(self, name: str, package: Path, address: str, model: str, known: Path, habits: Habits, seed: int) -> None:
        self.name, self.counts = name, Counts()
        told = [address, model, str(known), str(seed + 1), json.dumps(habits.batches), str(habits.abandoned)]
        self._command, self._package = ["node", "soak_worker.mjs", *told], package
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """None before its start and after its end."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    def start(self) -> None:
        process = subprocess.Popen(self._command, cwd=self._package, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process.stdout,), name=self.name)
        self._reader.start()

    def finish(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._reader is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(PATIENCE_S + _END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        if code != 0 and self.counts.error is None:
            self.counts.error = f"node ended with exit code {code}"

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                self.counts = Counts(**json.loads(line))


def sum_of(callers: Sequence[Caller]) -> dict[str, Any]:
    """All callers' counts together."""
    names = [field.name for field in fields(Counts) if field.name != "error"]
    return {name: sum(getattr(caller.counts, name) for caller in callers) for name in names}
