"""Keeps a server up: looks at it, starts it anew with its reason logged, gives up after too many times. Knows no Triton."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from .errors import ServingError, StartError
from .restarts import RestartBudget, Supervision
from .triton_run import StopWanted

_JOIN_S = 90.0  # a start is given up in tenths of a second, a stop takes at most 45 s
_log = logging.getLogger(__name__)


class Supervised(Protocol):
    """What is kept up; all calls come from the supervisor's one thread."""

    def fault(self) -> str | None:
        """Why it needs a restart, in words; None while nothing is known to be wrong."""

    def tend(self) -> None:
        """What there is to do while it is well."""

    def restart(self, give_up: threading.Event) -> None:
        """End it and start it anew, ready and checked.

        Raises:
            ServingError, OSError: it does not start.
            StopWanted: `give_up` was set meanwhile.
        """

    def failure(self, what: str) -> StartError:
        """The error that ends it, with its own last words."""


@dataclass(frozen=True)
class Restart:
    """One restart that succeeded.

    Attributes:
        time: of the fault's discovery, ISO 8601, UTC.
        recovery_s: from there until the server was ready and its canaries right.
    """

    time: str
    reason: str
    recovery_s: float


class Supervisor:
    """A thread that watches; `stop` it before the server.

    Attributes:
        history: the restarts so far, oldest first.
    """

    def __init__(self, supervised: Supervised, supervision: Supervision) -> None:
        self._supervised = supervised
        self._supervision = supervision
        self._budget = RestartBudget(supervision)
        self._stopping = threading.Event()
        self._given_up: StartError | None = None
        self._thread = threading.Thread(target=self._watch, name="histoserve supervisor", daemon=True)
        self.history: list[Restart] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer; a start on its way is given up.

        Raises:
            ServingError: it does not end.
        """
        self._stopping.set()
        self._thread.join(_JOIN_S)
        if self._thread.is_alive():
            raise ServingError(f"the supervisor did not end within {_JOIN_S:.0f} s: end this process, and the server ends with it")

    def require_running(self) -> None:
        """Return while the server is up, or is being started again.

        Raises:
            ServingError: it was given up.
        """
        if self._given_up is not None:
            raise self._given_up
        if not self._thread.is_alive() and not self._stopping.is_set():
            raise ServingError("the supervisor ended by a fault of its own (its traceback is on stderr): start the server again")

    def _watch(self) -> None:
        while self._given_up is None and not self._stopping.wait(self._supervision.poll_s):
            reason = self._supervised.fault()
            if reason is None:
                self._supervised.tend()
            else:
                self._recover(reason)

    def _recover(self, reason: str) -> None:
        found, found_s, first_reason = datetime.now(UTC), time.monotonic(), reason
        while (budget := self._budget.take(time.monotonic())) is not None:
            number, wait_s = budget
            _log.warning("%s; restart %d of %d within %s%s", reason, number, self._supervision.restarts, self._window, _in(wait_s))
            if self._stopping.wait(wait_s):
                return
            try:
                self._supervised.restart(self._stopping)
            except StopWanted:
                return
            except (ServingError, OSError) as error:
                reason = f"the restart failed: {error}"
                continue
            recovery_s = time.monotonic() - found_s
            self.history.append(Restart(found.isoformat(timespec="seconds"), first_reason, round(recovery_s, 2)))
            _log.warning("ready again after %.1f s", recovery_s)
            return
        self._given_up = self._supervised.failure(
            f"given up after {self._supervision.restarts} restarts within {self._window}; the last reason: {reason}"
        )

    @property
    def _window(self) -> str:
        return f"{self._supervision.within_s / 60:.3g} min"


def _in(wait_s: float) -> str:
    return f" in {wait_s:.3g} s" if wait_s else ""
