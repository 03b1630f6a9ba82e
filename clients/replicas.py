"""Several servers of one release as one model: each batch goes to one that has time, and to another if that goes away. Knows no slide."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
from tritonclient.utils import InferenceServerException

from .errors import AwayError, ServerError
from .replica import Replica
from .served_model import RETRY_WAITS_S, Outputs, Promise, is_temporary, reason_of
from .tls_files import TlsFiles

Tag = TypeVar("Tag")
_NO_TLS = TlsFiles()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sent(Generic[Tag]):
    tag: Tag
    tiles: npt.NDArray[np.uint8]
    tried: tuple[Replica, Future[Outputs]] | None  # None: no server was there to be asked


class ReplicatedModel:
    """What `ServedModel` is for one server. A context manager; since all servers compute the same, so do any of them together.

    A server that goes away is left out and asked once a second whether it is back. One that comes back with another release or engine stays
    left out, and the log says so: the results of one run are never mixed.

    Args:
        addresses: of the servers' gRPC, "host:port" each; those that do not answer yet are waited for as if they had gone away.
        model: the callers' entry, e.g. "demo_segment".
        tls: encrypts all connections.
        headers: sent with every request to each of them.

    Attributes:
        contract, max_batch, engine: of all servers.

    Raises:
        AwayError: no server answers.
        ServerError: two of them serve different things; or one does not have the model, or not one of ours.
    """

    def __init__(self, addresses: Sequence[str], model: str, tls: TlsFiles = _NO_TLS, headers: Mapping[str, str] | None = None) -> None:
        self.model = model
        self._given_up = threading.Event()
        self._lock = threading.Lock()
        self._turns = itertools.count()
        self._asking = ThreadPoolExecutor(len(addresses), thread_name_prefix="asks servers that are away")
        self._replicas = [Replica(address, model, tls, self._asking, headers) for address in addresses]
        try:
            first = self._open()
        except BaseException:
            self.close()
            raise
        self.contract, self.max_batch, self.engine = first.contract, first.max_batch, first.engine

    def close(self) -> None:
        """Also ends what is on the way."""
        for replica in self._replicas:
            replica.close()
        self._asking.shutdown()
        for replica in self._replicas:
            replica.close()  # what was opened meanwhile

    def give_up(self) -> None:
        """No longer wait for servers that are away: whoever streams gets the error at once. May be called from any thread."""
        self._given_up.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def stream(self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int) -> Iterator[tuple[Tag, Outputs]]:
        """Send tiles to the servers and give the answers in the order of the batches.

        Args:
            batches: a tag, which comes back as it is, and uint8 tiles (n, tile_px, tile_px, 3), n ≤ `max_batch`.
            in_flight: batches that may be on the way at a time, for each server that is there.

        Raises:
            ServerError: a server refuses a batch, or all of them stay away for half a minute.
        """
        waiting: deque[_Sent[Tag]] = deque()
        try:
            for tag, tiles in batches:
                waiting.append(_Sent(tag, tiles, self._send(tiles)))
                while len(waiting) >= in_flight * self._count_ready():
                    first = waiting.popleft()
                    yield first.tag, self._receive(first)
            while waiting:
                first = waiting.popleft()
                yield first.tag, self._receive(first)
        finally:
            wait([sent.tried[1] for sent in waiting if sent.tried])  # closing the channels would cancel them

    def _open(self) -> Promise:
        """Connect to all; the first that answers is what the others are held against."""
        first: Promise | None = None
        for replica in self._replicas:
            try:
                promise = replica.open()
            except AwayError as error:
                replica.leave(str(error))
            else:
                first = first or promise
        if first is None:
            raise AwayError(f"none of {len(self._replicas)} servers answers: {self._replicas[0].why}")
        for replica in self._replicas:
            replica.follow(first)
            if not replica.is_ready:
                _log.warning("%s; the others begin without it", replica.why)
        return first

    def _send(self, tiles: npt.NDArray[np.uint8], but: Collection[Replica] = ()) -> tuple[Replica, Future[Outputs]] | None:
        """To the server with the least to do, in turn where several have; None where none is ready."""
        with self._lock:
            for replica in self._replicas:
                replica.look_back()
            start = next(self._turns) % len(self._replicas)
            in_turn = [replica for replica in self._replicas[start:] + self._replicas[:start] if replica.is_ready and replica not in but]
            chosen = min(in_turn, key=lambda replica: replica.on_the_way, default=None)
        return None if chosen is None else (chosen, chosen.send(tiles))

    def _receive(self, sent: _Sent[Tag]) -> Outputs:
        """The answer to a batch, from whichever server gives it in the end."""
        tried, waits_s = sent.tried, iter(RETRY_WAITS_S)
        full: set[Replica] = set()
        failure: ServerError | None = None
        while True:
            if tried is not None:
                replica, answer = tried
                try:
                    return replica.served.check(answer.result(), len(sent.tiles))
                except InferenceServerException as error:
                    failure = replica.served.failure(error)
                    if not (is_temporary(error) or _lacks_model(error)):
                        raise failure from error
                    full.add(replica)
                    if not _has_full_queue(error) and replica.leave(reason_of(error)):
                        _log.warning("%s: %s; its batches go to the other servers", replica.address, reason_of(error))
            tried = self._send(sent.tiles, full)
            if tried is None:
                wait_s = next(waits_s, None)
                is_hopeless = all(replica.is_strange for replica in self._replicas)
                if wait_s is None or is_hopeless or self._given_up.is_set():
                    whys = "; ".join(replica.why for replica in self._replicas)
                    raise ServerError(f"no server is left: {whys}") if is_hopeless or failure is None else failure
                self._given_up.wait(wait_s)
                full.clear()

    def _count_ready(self) -> int:
        return max(1, sum(replica.is_ready for replica in self._replicas))


def _lacks_model(error: InferenceServerException) -> bool:
    """It serves another release by now, without having been seen to go away; others may still have the one of this run."""
    return "NOT_FOUND" in str(error.status() or "")


def _has_full_queue(error: InferenceServerException) -> bool:
    return "Exceeds maximum queue size" in (error.message() or "")
