"""Closed and open load on anything that takes requests; latencies against what was intended. Knows no server and no real time.

A *closed* loop keeps n requests on the way: it finds the throughput, but when the server stalls it stops asking, so its latencies omit what
callers would have met. An *open* loop sends at times that were drawn before (Poisson), and a latency starts at the intended time, also
where the sender itself was late: nothing is omitted.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

Done = Callable[[str | None], None]
UNANSWERED = "unanswered"


class Target(Protocol):
    """What is loaded."""

    def send(self, number: int, done: Done) -> None:
        """Send a request and return; `done` is called later, from any thread, with the kind of error or None.

        Args:
            number: counts the requests, from 0.
        """


class Clock(Protocol):
    """What tells the time and lets it pass."""

    def now_s(self) -> float: ...

    def sleep_until(self, time_s: float) -> None: ...

    def wait(self, condition: Callable[[], bool], until_s: float) -> bool:
        """Until it holds (True), or until the time (False)."""


class RealClock:
    """The machine's."""

    _POLL_S = 0.002

    def now_s(self) -> float:
        return time.perf_counter()

    def sleep_until(self, time_s: float) -> None:
        while (left_s := time_s - time.perf_counter()) > 0:
            time.sleep(left_s)

    def wait(self, condition: Callable[[], bool], until_s: float) -> bool:
        while not condition():
            if time.perf_counter() >= until_s:
                return False
            time.sleep(self._POLL_S)
        return True


@dataclass
class Measured:
    """What a load met, after its warm-up.

    Attributes:
        seconds: of the measured window.
        sent: requests that were (to be) sent in the window.
        latencies_s: of those of them that were answered rightly.
        late_s: how much later than intended each was sent: the load's own fault, part of the latency.
        finished: requests whose answer came within the window, whenever they were sent: the throughput counts these.
        finished_ever: with warm-up and what came after the window: these are what the CPU was used for.
    """

    seconds: float = 0.0
    sent: int = 0
    latencies_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    finished_ever: int = 0

    def share_within(self, goal_s: float) -> float:
        """Of all that were sent: a request that failed has missed its goal."""
        return sum(latency_s <= goal_s for latency_s in self.latencies_s) / self.sent if self.sent else 0.0


def draw_arrivals_s(rate_per_s: float, seconds: float, seed: int) -> list[float]:
    """Times of a Poisson process within 0…seconds, ascending; the same for the same arguments."""
    random = np.random.default_rng(seed)
    count = random.poisson(rate_per_s * seconds)  # given their number, the times are uniform
    return [float(time_s) for time_s in np.sort(random.uniform(0.0, seconds, count))]


def run_open(target: Target, arrivals_s: Sequence[float], warm_s: float, seconds: float, clock: Clock, drain_s: float = 60.0) -> Measured:
    """Send at these times after the start; what was intended in the first `warm_s` is sent, and not counted.

    Args:
        drain_s: how long to wait for the last answers; what has none by then is an error of its own kind.
    """
    start_s = clock.now_s()
    books = _Books(start_s + warm_s, start_s + warm_s + seconds, clock)
    for number, arrival_s in enumerate(arrivals_s):
        clock.sleep_until(start_s + arrival_s)
        target.send(number, books.open(start_s + arrival_s))
    return books.close(drain_s)


def run_closed(target: Target, concurrency: int, warm_s: float, seconds: float, clock: Clock, drain_s: float = 60.0) -> Measured:
    """Keep so many requests on the way; each answer sends the next one."""
    start_s = clock.now_s()
    books = _Books(start_s + warm_s, start_s + warm_s + seconds, clock)
    numbers, lock = iter(range(10**12)), threading.Lock()

    def send() -> None:
        with lock:
            number = next(numbers)
        done = books.open(clock.now_s())

        def again(error: str | None) -> None:
            done(error)
            if clock.now_s() < books.end_s:
                send()

        target.send(number, again)

    for _ in range(concurrency):
        send()
    clock.sleep_until(books.end_s)
    return books.close(drain_s)


class _Books:
    """Counts requests from any thread."""

    def __init__(self, begin_s: float, end_s: float, clock: Clock) -> None:
        self.begin_s, self.end_s = begin_s, end_s
        self._clock, self._lock = clock, threading.Lock()
        self._measured = Measured(seconds=end_s - begin_s)
        self._on_the_way = self._counted_on_the_way = 0
        self._is_closed = False

    def open(self, intended_s: float) -> Done:
        """A request begins; what it is done with."""
        late_s = self._clock.now_s() - intended_s
        counts = self.begin_s <= intended_s < self.end_s
        with self._lock:
            self._on_the_way += 1
            if counts:
                self._counted_on_the_way += 1
                self._measured.sent += 1
                self._measured.late_s.append(late_s)
        return lambda error: self._finish(intended_s, counts, error)

    def close(self, drain_s: float) -> Measured:
        """Wait for what is on the way; later answers are not counted anymore."""
        self._clock.wait(lambda: self._on_the_way == 0, self._clock.now_s() + drain_s)
        with self._lock:
            self._is_closed = True
            if self._counted_on_the_way:
                self._measured.errors[UNANSWERED] += self._counted_on_the_way
            return self._measured

    def _finish(self, intended_s: float, counts: bool, error: str | None) -> None:
        now_s = self._clock.now_s()
        with self._lock:
            self._on_the_way -= 1
            if self._is_closed:
                return
            self._counted_on_the_way -= counts
            self._measured.finished_ever += error is None
            if error is None and self.begin_s <= now_s < self.end_s:
                self._measured.finished += 1
            if counts and error is None:
                self._measured.latencies_s.append(now_s - intended_s)
            elif counts:
                self._measured.errors[str(error)] += 1
