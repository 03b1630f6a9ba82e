"""CPU-seconds of a program by phase: of calls that are named from outside, so that the program knows nothing of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock


class Phases:
    """CPU-seconds of the calls that `wrap` names, each without what it calls in turn of these; of all threads together."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}
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
            outer_s, self._inside.cpu_s = getattr(self._inside, "cpu_s", 0.0), 0.0
            start_s = time.thread_time()
            try:
                return call(*args, **kwargs)
            finally:
                total_s = time.thread_time() - start_s
                with self._lock:
                    self.cpu_s[phase] = self.cpu_s.get(phase, 0.0) + total_s - self._inside.cpu_s
                self._inside.cpu_s = outer_s + total_s

        return timed
