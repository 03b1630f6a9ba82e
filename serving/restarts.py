"""How often a server is started again, and how long before each time. Arithmetic of times; restarts nothing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class Supervision:
    """How a server is kept up.

    Attributes:
        poll_s: seconds between two looks at the processes.
        canary_every_s: seconds between two canaries of each release.
        canary_answer_s: how long a canary may take while the release answers nobody at all. Far above the service time; no deadline
            of gRPC is set, since 2.51 can crash on one (research: serving.md §1.8).
        canary_failures: in a row, before the server is started anew.
        restarts: within `within_s`, then it is given up; 0 = the first fault ends it.
        waits_s: before the first, second, … restart within `within_s`; the last one for all further. The first three are short:
            callers send a batch again for a minute.
    """

    poll_s: float = 0.5
    canary_every_s: float = 30.0
    canary_answer_s: float = 60.0
    canary_failures: int = 2
    restarts: int = 5
    within_s: float = 600.0
    waits_s: tuple[float, ...] = (0.0, 1.0, 5.0, 15.0, 30.0)

    def __post_init__(self) -> None:
        if min(self.poll_s, self.canary_every_s, self.canary_answer_s, self.within_s) <= 0:
            raise ValueError("supervision: expected times above 0 s")
        if self.canary_failures < 1 or self.restarts < 0 or not self.waits_s or min(self.waits_s) < 0:
            raise ValueError("supervision: expected canary_failures of at least 1, restarts of at least 0 and waits_s of at least 0 s")


class RestartBudget:
    """Counts restarts in a sliding window."""

    def __init__(self, supervision: Supervision) -> None:
        self._supervision = supervision
        self._times_s: deque[float] = deque()

    def take(self, now_s: float) -> tuple[int, float] | None:
        """Use one restart: its number within the window, from 1, and the seconds to wait before it. None = there is none left.

        Args:
            now_s: of a clock that never goes back.
        """
        while self._times_s and now_s - self._times_s[0] >= self._supervision.within_s:
            self._times_s.popleft()
        if len(self._times_s) >= self._supervision.restarts:
            return None
        self._times_s.append(now_s)
        number = len(self._times_s)
        return number, self._supervision.waits_s[min(number, len(self._supervision.waits_s)) - 1]
