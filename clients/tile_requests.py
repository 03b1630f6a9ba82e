"""Batches of tiles to a fleet and back, a bounded number on the way for all callers together. Knows no entry by name and no asyncio."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, Contract

from .call_errors import ClosedError, DeadlineError, MismatchError, TilesError
from .endpoint import Arrays, Endpoint, Entry
from .fleet import Fleet
from .served_model import SLIDE_OUTPUTS

Tag = TypeVar("Tag")
OUTPUTS = {"segment": (LABELS, PROBABILITIES), "cam": (CAM, SCORES, LABELS)}
CLOSE_S = 30.0  # what is on the way is waited for so long


class Requests:
    """Thread-safe. A request that nobody waits for any more is left to finish; one that was not sent yet is dropped.

    Args:
        in_flight: requests on the way at a time.
    """

    def __init__(self, fleet: Fleet, in_flight: int) -> None:
        if in_flight < 1:
            raise ValueError(f"in_flight: expected at least 1, got {in_flight}")
        self.fleet = fleet
        self.in_flight = in_flight
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="tiles")
        self._places = threading.Semaphore(in_flight)  # of the pool's threads and of the callers' own
        self._lock = threading.Lock()
        self._on_the_way: set[Future[Arrays]] = set()
        self._is_closed = False

    def close(self) -> None:
        """Refuse what was not sent, wait for what is on the way (a canceled request can crash a server), then hang up."""
        with self._lock:
            self._is_closed = True
            left = list(self._on_the_way)
        self.fleet.give_up()  # what was not sent ends with ClosedError
        self._pool.shutdown(wait=False)
        wait(left, timeout=CLOSE_S)
        self.fleet.close()

    def ask_tiles(self, entry: Entry, tiles: npt.NDArray[np.uint8], deadline: float | None) -> Arrays:
        """Tiles of any number to their answers, waited for until a time of `time.monotonic`.

        One batch without a deadline is sent from the caller's own thread, since to change threads twice costs more than all else here. Not from the
        main thread: Ctrl-C would cancel what is on the way.

        Raises:
            TilesError: not uint8 (n, tile_px, tile_px, 3).
            CallError: see its tree.
        """
        require_tiles(tiles, entry.contract)
        if deadline is None and 0 < len(tiles) <= entry.max_batch and threading.current_thread() is not threading.main_thread():
            return self._ask_here(entry, tiles)
        stop = threading.Event()
        return joined(await_all(self.submit_tiles(entry, tiles, stop), deadline, stop), entry.contract)

    def submit_tiles(self, entry: Entry, tiles: npt.NDArray[np.uint8], stop: threading.Event) -> list[Future[Arrays]]:
        """One request for each batch of the server's limit, in order.

        Args:
            stop: set when nobody waits any more.

        Raises:
            TilesError: not uint8 (n, tile_px, tile_px, 3).
        """
        require_tiles(tiles, entry.contract)
        starts = range(0, len(tiles), entry.max_batch)
        return [self.submit_batch(entry, tiles[start : start + entry.max_batch], OUTPUTS[entry.contract.kind], stop) for start in starts]

    def submit_batch(self, entry: Entry, batch: npt.NDArray[np.uint8], outputs: Sequence[str], stop: threading.Event) -> Future[Arrays]:
        """One request."""

        return self._submit(entry, _tiles_call(entry, batch, outputs), len(batch), stop)

    def submit_file(self, entry: Entry, data: bytes, stop: threading.Event) -> Future[Arrays]:
        """The file of one tile."""
        return self._submit(entry, lambda endpoint: endpoint.infer_image(entry.name, data, OUTPUTS["segment"]), 1, stop)

    def _submit(self, entry: Entry, call: Callable[[Endpoint], Arrays], count: int, stop: threading.Event) -> Future[Arrays]:
        with self._lock:
            self._require_open()
            future = self._pool.submit(self._ask, entry, call, count, stop.is_set)
            self._on_the_way.add(future)
        future.add_done_callback(self._forget)
        return future

    def _ask_here(self, entry: Entry, batch: npt.NDArray[np.uint8]) -> Arrays:
        """One request in this thread; whoever closes the client waits for it as for those of the pool."""
        future: Future[Arrays] = Future()
        with self._lock:
            self._require_open()
            self._on_the_way.add(future)
        try:
            return self._ask(entry, _tiles_call(entry, batch, OUTPUTS[entry.contract.kind]), len(batch), lambda: False)
        finally:
            self._forget(future)
            future.set_result({})  # that it is over is all that anyone asks of it

    def _ask(self, entry: Entry, call: Callable[[Endpoint], Arrays], count: int, is_abandoned: Callable[[], bool]) -> Arrays:
        with self._places:
            return self._check(entry, self.fleet.ask(entry, call, is_abandoned), count)

    def _require_open(self) -> None:
        if self._is_closed:
            raise ClosedError("the client was closed: make calls inside its with block")

    def _forget(self, future: Future[Arrays]) -> None:
        with self._lock:
            self._on_the_way.discard(future)

    def _check(self, entry: Entry, outputs: Arrays, count: int) -> Arrays:
        """Refuse an answer that the contract does not promise."""
        for name, values in outputs.items():
            expected = (count, *output_shape(name, entry.contract))
            if values.shape != expected or values.dtype != output_dtype(name):
                self.fleet.forget(entry.name)
                raise MismatchError(
                    f"model {entry.name!r}: expected {name} {np.dtype(output_dtype(name))} {expected}, got {values.dtype} {values.shape}: "
                    "if another model was put in its place, call again"
                )
        return outputs


def _tiles_call(entry: Entry, batch: npt.NDArray[np.uint8], outputs: Sequence[str]) -> Callable[[Endpoint], Arrays]:
    return lambda endpoint: endpoint.infer_tiles(entry.name, np.ascontiguousarray(batch), outputs)


class SlideModel:
    """A release's slide model as `pipeline.TileModel`, until a time of `time.monotonic` or until `stop` is set."""

    def __init__(self, requests: Requests, entry: Entry, deadline: float | None, stop: threading.Event) -> None:
        self.contract = entry.contract
        self.max_batch = entry.max_batch
        self._requests = requests
        self._entry = entry
        self._deadline = deadline
        self._stop = stop

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        """Answers in the order of the batches.

        Raises:
            CallError: a request's error, or nobody waits any more.
        """
        outputs, waiting = SLIDE_OUTPUTS[self.contract.kind], deque[tuple[Tag, Future[Arrays]]]()
        try:
            for tag, tiles in batches:
                if self._stop.is_set():
                    raise ClosedError("segment_image: nobody waits for this image any more")
                waiting.append((tag, self._requests.submit_batch(self._entry, tiles, outputs, self._stop)))
                if len(waiting) >= in_flight:
                    yield self._first(waiting)
            while waiting:
                yield self._first(waiting)
        finally:
            for _, answer in waiting:
                answer.cancel()  # only what was not sent yet

    def _first(self, waiting: deque[tuple[Tag, Future[Arrays]]]) -> tuple[Tag, Arrays]:
        tag, answer = waiting.popleft()
        (outputs,) = await_all([answer], self._deadline, None)
        return tag, outputs


def require_tiles(tiles: npt.NDArray[np.uint8], contract: Contract) -> None:
    """Refuse what is no batch of the contract's tiles.

    Raises:
        TilesError: not uint8 (n, tile_px, tile_px, 3).
    """
    side = contract.task.tile_px
    if not isinstance(tiles, np.ndarray) or tiles.dtype != np.uint8 or tiles.shape[1:] != (side, side, 3):
        came = f"{tiles.dtype} {tiles.shape}" if isinstance(tiles, np.ndarray) else type(tiles).__name__
        raise TilesError(f"tiles: expected uint8 (n, {side}, {side}, 3), RGB at {contract.task.mpp:g} µm per pixel, got {came}")


def output_shape(name: str, contract: Contract) -> tuple[int, ...]:
    """Of one tile."""
    side, grid, classes = contract.task.tile_px, contract.grid_cells, len(contract.task.classes)
    shapes = {LABELS: (side, side), PROBABILITIES: (classes + 1, grid, grid), CAM: (classes, grid, grid), SCORES: (classes,)}
    return shapes[name]


def output_dtype(name: str) -> type[np.generic]:
    """Of an output, by its name."""
    return np.float32 if name in (CAM, SCORES) else np.uint8


def joined(parts: Sequence[Arrays], contract: Contract) -> Arrays:
    """The batches' answers as one; of no batch, arrays of no tiles."""
    if len(parts) == 1:
        return parts[0]
    empty = {name: np.zeros((0, *output_shape(name, contract)), output_dtype(name)) for name in OUTPUTS[contract.kind]}
    return {name: np.concatenate([part[name] for part in parts]) if parts else nothing for name, nothing in empty.items()}


def await_all(futures: Sequence[Future[Arrays]], deadline: float | None, stop: threading.Event | None) -> list[Arrays]:
    """Wait for all answers; on the first error or at the deadline, the rest is dropped where it was not sent yet.

    Args:
        deadline: of `time.monotonic`; None = as long as it takes.
        stop: set in the end; None = others wait for it, too.

    Raises:
        DeadlineError: it passed.
        CallError: a request's error.
    """
    try:
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        done, late = wait(futures, timeout=left_s, return_when="FIRST_EXCEPTION")
        failed = next((error for future in futures if future in done and (error := future.exception()) is not None), None)
        if failed is not None:
            raise failed
        if late:
            raise DeadlineError(late_message(len(late), len(futures)))
        return [future.result() for future in futures]
    finally:
        if stop is not None:
            stop.set()
        for future in futures:
            future.cancel()


def late_message(late: int, count: int) -> str:
    """What a deadline says."""
    return f"{late} of {count} requests had no answer at the deadline; what was sent is left to finish"
