"""A clock that jumps to the next event, and servers in its time: every latency is known beforehand."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count

from benchmarks.bench.load import Done


class VirtualClock:
    """Time passes only where somebody waits; what was planned happens on the way."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._planned: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def now_s(self) -> float:
        return self._now_s

    def plan(self, time_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._planned, (time_s, next(self._order), action))

    def sleep_until(self, time_s: float) -> None:
        while self._planned and self._planned[0][0] <= time_s:
            self._next()
        self._now_s = max(self._now_s, time_s)

    def wait(self, condition: Callable[[], bool], until_s: float) -> bool:
        while not condition():
            if not self._planned or self._planned[0][0] > until_s:
                self._now_s = until_s
                return condition()
            self._next()
        return True

    def _next(self) -> None:
        time_s, _, action = heapq.heappop(self._planned)
        self._now_s = max(self._now_s, time_s)
        action()


class VirtualServer:
    """Serves one request after the other, each in the same time, but not while it stalls.

    Args:
        stalls_s: (from, to) in which it does nothing; a service that would begin there begins at the end.
        fails: numbers of requests that end with the error "odd".
        blocks: whether `send` waits for the answer, as a careless client does.
        loses: numbers of requests that are never answered.
    """

    def __init__(
        self,
        clock: VirtualClock,
        service_s: float,
        stalls_s: Sequence[tuple[float, float]] = (),
        *,
        fails: frozenset[int] = frozenset(),
        loses: frozenset[int] = frozenset(),
        blocks: bool = False,
    ) -> None:
        self._clock, self._service_s, self._stalls_s = clock, service_s, stalls_s
        self._fails, self._loses, self._blocks = fails, loses, blocks
        self._free_s = 0.0
        self.sent_s: list[float] = []

    def send(self, number: int, done: Done) -> None:
        self.sent_s.append(self._clock.now_s())
        if number in self._loses:
            return
        start_s = max(self._clock.now_s(), self._free_s)
        for from_s, to_s in self._stalls_s:
            if from_s <= start_s < to_s:
                start_s = to_s
        self._free_s = start_s + self._service_s
        self._clock.plan(self._free_s, lambda: done("odd" if number in self._fails else None))
        if self._blocks:
            self._clock.sleep_until(self._free_s)
