"""Batches of tiles to a fleet and back, a bounded number on the way for all callers together. Knows no entry by name and no asyncio."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, SLIDE_OUTPUTS, Contract

from .call_errors import ClosedError, DeadlineError, MismatchError, TilesError
from .endpoint import Arrays, Entry, Given, request_of
from .fleet import Fleet

Tag = TypeVar("Tag")
OUTPUTS = {"segment": (LABELS, PROBABILITIES), "cam": (CAM, SCORES, LABELS)}
CLOSE_S = 30.0  # what is on the way is waited for so long
_log = logging.getLogger(__name__)


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
        # One for each request on the way, of the pool's threads and of the callers' own. A semaphore is made of Python and costs ten times as much.
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(in_flight):
            self._places.put(None)
        self._lock = threading.Lock()
        self._closing = threading.Lock()

    def close(self) -> None:
        """Refuse what was not sent, wait for what is on the way (a canceled request can crash a server), then hang up."""
        with self._lock:
            self.fleet.give_up()  # what was not sent ends with ClosedError
            self._pool.shutdown(wait=False)
        with self._closing:  # two threads would wait for each other's places
            self._await_places(time.monotonic() + CLOSE_S)
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
            return self._ask(entry, tiles, OUTPUTS[entry.contract.kind], _never)
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
        return [self.submit(entry, tiles[start : start + entry.max_batch], OUTPUTS[entry.contract.kind], stop) for start in starts]

    def submit(self, entry: Entry, given: Given, outputs: Sequence[str], stop: threading.Event) -> Future[Arrays]:
        """One request, of a batch of tiles or of the file of one."""
        with self._lock:
            self.fleet.require_open()
            return self._pool.submit(self._ask, entry, given, outputs, stop.is_set)

    def _ask(self, entry: Entry, given: Given, outputs: Sequence[str], is_abandoned: Callable[[], bool]) -> Arrays:
        self._places.get()
        try:
            request = request_of(entry.name, given, outputs)
            return require_promised(entry, request.inputs[0].shape[0], self.fleet.ask(entry, request, is_abandoned))
        except MismatchError:
            self.fleet.forget(entry.name)
            raise
        finally:
            self._places.put(None)

    def _await_places(self, end: float) -> None:
        """Until nothing is on the way, or a time of `time.monotonic`. The places go back: those who wait for one are refused then."""
        taken = 0
        try:
            while taken < self.in_flight:
                self._places.get(timeout=max(0.0, end - time.monotonic()))
                taken += 1
        except Empty:
            _log.warning(
                "closed with %d requests on the way, which had no answer in %g s: they are canceled", self.in_flight - taken, CLOSE_S
            )
        for _ in range(taken):
            self._places.put(None)


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
                waiting.append((tag, self._requests.submit(self._entry, tiles, outputs, self._stop)))
                if len(waiting) >= in_flight:
                    yield self._first(waiting)
            while waiting:
                yield self._first(waiting)
        finally:
            for _, answer in waiting:
                answer.cancel()  # only what was not sent yet

    def _first(self, waiting: deque[tuple[Tag, Future[Arrays]]]) -> tuple[Tag, Arrays]:
        tag = waiting[0][0]
        (outputs,) = await_all([waiting.popleft()[1]], self._deadline, None)
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


def require_promised(entry: Entry, count: int, outputs: Arrays) -> Arrays:
    """Refuse an answer that the contract does not promise for so many tiles.

    Raises:
        MismatchError: another shape or dtype.
    """
    for name, values in outputs.items():
        expected = (count, *output_shape(name, entry.contract))
        if values.shape != expected or values.dtype != output_dtype(name):
            raise MismatchError(
                f"model {entry.name!r}: expected {name} {np.dtype(output_dtype(name))} {expected}, got {values.dtype} {values.shape}: "
                "if another model was put in its place, call again"
            )
    return outputs


def output_shape(name: str, contract: Contract) -> tuple[int, ...]:
    """Of one tile."""
    if name == LABELS:
        return contract.task.tile_px, contract.task.tile_px
    if name == SCORES:
        return (len(contract.task.classes),)
    side = contract.grid_cells
    return len(contract.task.classes) + (name == PROBABILITIES), side, side


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
        wait(futures, timeout=left_s(deadline), return_when="FIRST_EXCEPTION")
        return answers_of(futures)
    finally:
        drop(futures, stop)
        del futures  # an error knows this frame, and its future the error: a cycle, which would hold the answers until it is collected


def answers_of(futures: Sequence[Future[Arrays]]) -> list[Arrays]:
    """Of requests that were waited for.

    Raises:
        DeadlineError: one is not done.
        CallError: the first request's that failed.
    """
    failed = [future for future in futures if future.done() and future.exception() is not None]
    late = sum(not future.done() for future in futures)
    if late and not failed:
        raise DeadlineError(f"{late} of {len(futures)} requests had no answer at the deadline; what was sent is left to finish")
    try:
        if failed:
            failed[0].result()  # raises
        return [future.result() for future in futures]
    finally:
        del futures, failed  # as in `await_all`


def drop(futures: Sequence[Future[Arrays]], stop: threading.Event | None) -> None:
    """Nobody waits any more: what was not sent yet never is."""
    if stop is not None:
        stop.set()
    for future in futures:
        future.cancel()


def left_s(deadline: float | None) -> float | None:
    """Until a time of `time.monotonic`; None = as long as it takes."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _never() -> bool:
    return False
