"""Several servers of the same models as one: in turn, around those that are away, again until the caller's patience ends. Knows no tiles."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .call_errors import CallError, ClosedError, DeadlineError, MismatchError, MissingModelError, TransientError, UnreachableError
from .endpoint import Arrays, Endpoint, Entry, Tls

Answer = TypeVar("Answer")
_WAITS_S = (0.1, 0.25, 0.5, 1.0, 2.0)  # the last one again and again
_REST_S = 1.0  # a server that was away is asked last for so long


class Fleet:
    """Thread-safe.

    Args:
        addresses: of gRPC, "host:port" each; they must serve the same models, of whatever release.
        patience_s: how long full queues and servers that are away are tried again.

    Raises:
        ValueError: no address.
    """

    def __init__(self, addresses: Sequence[str], tls: Tls | None, headers: Mapping[str, str], patience_s: float) -> None:
        if not addresses:
            raise ValueError('servers: expected at least one "host:port", got none')
        self._endpoints = [Endpoint(address, tls, headers) for address in addresses]
        self._patience_s = patience_s
        self._turns = itertools.count()
        self._away_until = dict.fromkeys(addresses, 0.0)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._fitting: set[tuple[str, str]] = set()

    def give_up(self) -> None:
        """No longer wait for servers that are away."""
        self._closing.set()

    def require_open(self) -> None:
        """Refuse what comes after `give_up`.

        Raises:
            ClosedError: it was called.
        """
        if self._closing.is_set():
            raise ClosedError("the client was closed: make calls inside its with block")

    def close(self) -> None:
        self.give_up()
        for endpoint in self._endpoints:
            endpoint.close()

    def entry(self, name: str, fresh: bool = False, until: float | None = None) -> Entry:
        """What an entry is, asked for once unless `fresh`.

        Args:
            until: of `time.monotonic`; None = as long as the patience lasts.

        Raises:
            DeadlineError: no server told until then.
            CallError: no server tells.
        """
        known = self._entries.get(name)
        if known is None or fresh:
            known = self._try_each(lambda endpoint: endpoint.describe(name), lambda: False, until)
            with self._lock:
                self._entries[name] = known
        return known

    def forget(self, name: str) -> None:
        """Ask again what the entry is: its servers have another one by now."""
        with self._lock:
            self._entries.pop(name, None)
            self._fitting = {pair for pair in self._fitting if pair[1] != name}

    def ask(self, entry: Entry, request: Any, is_abandoned: Callable[[], bool]) -> Arrays:
        """The answer of the first server that gives one; temporary errors alone are tried again.

        Args:
            request: of `endpoint.request_of`.
            is_abandoned: nobody waits for the answer any more: no further try.

        Raises:
            CallError: the last server's error.
        """

        def infer(endpoint: Endpoint) -> Arrays:
            self._require_fit(endpoint, entry)
            return endpoint.infer(request)

        return self._try_each(infer, is_abandoned)

    def _try_each(self, call: Callable[[Endpoint], Answer], is_abandoned: Callable[[], bool], until: float | None = None) -> Answer:
        end = min(time.monotonic() + self._patience_s, math.inf if until is None else until)
        waits = itertools.chain(_WAITS_S, itertools.repeat(_WAITS_S[-1]))
        errors: list[CallError] = []
        try:
            while True:
                errors.clear()
                for endpoint in self._in_turn():
                    self.require_open()
                    try:
                        return call(endpoint)
                    except UnreachableError as error:
                        self._away_until[endpoint.address] = time.monotonic() + _REST_S
                        errors.append(error)
                    except (TransientError, MissingModelError) as error:  # another server may have room, or the release
                        errors.append(error)
                is_passing = any(isinstance(error, TransientError) for error in errors)
                wait_s = min(next(waits), end - time.monotonic())
                if is_passing and until is not None and end == until and wait_s <= 0:
                    raise DeadlineError(f"no server told what it serves until the deadline: {_last(errors)}") from _last(errors)
                if not is_passing or wait_s <= 0 or is_abandoned():
                    raise _last(errors)
                self._closing.wait(wait_s)
        finally:
            errors.clear()  # each knows this frame by its traceback: a cycle, which would hold the request until it is collected

    def _in_turn(self) -> list[Endpoint]:
        """From the next one on, those that were away at the end."""
        if len(self._endpoints) == 1:
            return self._endpoints
        first = next(self._turns) % len(self._endpoints)
        now = time.monotonic()
        return sorted(self._endpoints[first:] + self._endpoints[:first], key=lambda endpoint: self._away_until[endpoint.address] > now)

    def _require_fit(self, endpoint: Endpoint, entry: Entry) -> None:
        """Once for each server: its model must mean what the first one's did."""
        pair = (endpoint.address, entry.name)
        if pair in self._fitting:
            return
        misfit = entry.misfit(endpoint.describe(entry.name))
        if misfit is not None:
            raise MismatchError(f"{endpoint.address}: model {entry.name!r}: {misfit}: servers that take turns must serve the same model")
        with self._lock:
            self._fitting.add(pair)


def _last(errors: Sequence[CallError]) -> CallError:
    """A temporary one, if there is any."""
    return ([error for error in errors if isinstance(error, TransientError)] or errors)[-1]
