"""CPU-seconds and seconds of a program by phase: of calls that are named from outside, so that the program knows nothing of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock


class Phases:
    """What the calls that `wrap` names take, each without what it calls in turn of these; of all threads together.

    Attributes:
        cpu_s: by phase.
        busy_s: by phase, waiting included: threads overlap, so that the sum can be more than the time that went by.
    """

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
        self.busy_s: dict[str, float] = {}
        self._inside = threading.local()
        self._lock = threading.Lock()

    @contextmanager
    def wrap(self, calls: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """Take the time of (owner, name of the function, phase) until the block ends."""
        with ExitStack() as stack:
            for owner, name, phase in calls:
                stack.enter_context(mock.patch.object(owner, name, self._timed(getattr(owner, name), phase)))
            yield

    def _timed(self, call: Callable[..., Any], phase: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            outer = getattr(self._inside, "cost_s", (0.0, 0.0))
            self._inside.cost_s = (0.0, 0.0)
            start_cpu_s, start_s = time.thread_time(), time.monotonic()
            try:
                return call(*args, **kwargs)
            finally:
                cpu_s, busy_s = time.thread_time() - start_cpu_s, time.monotonic() - start_s
                inner_cpu_s, inner_busy_s = self._inside.cost_s
                with self._lock:
                    self.cpu_s[phase] = self.cpu_s.get(phase, 0.0) + cpu_s - inner_cpu_s
                    self.busy_s[phase] = self.busy_s.get(phase, 0.0) + busy_s - inner_busy_s
                self._inside.cost_s = (outer[0] + cpu_s, outer[1] + busy_s)

        return timed
