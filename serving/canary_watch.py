"""Asks the served releases for their canary every so often, and tells a hung server from a busy one. Restarts nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tritonclient.utils import InferenceServerException

from .errors import CanaryError
from .restarts import Supervision

_AGAIN_S = 1.0  # after a failure: is it one that stays?
_FULL_QUEUE = "maximum queue size"  # Triton's words; a server that rejects is a server that works


@dataclass
class _Question:
    """One canary on its way, in a thread of its own: no deadline, never canceled."""

    release: str
    asked_s: float
    progress: int
    done: threading.Event = field(default_factory=threading.Event)
    error: CanaryError | None = field(default_factory=lambda: CanaryError("its thread ended without an answer: a bug of histoserve"))


class CanaryWatch:
    """The canaries of one run; `fault` is to be called often and never waits for an answer.

    Args:
        releases: the frozen ensembles to ask now; may change between calls.
        ask: one canary of a release; raises CanaryError.
        progress: a number that grows with every request that the release's models finish, in success or not.
        clock_s: of a clock that never goes back.
    """

    def __init__(
        self,
        supervision: Supervision,
        releases: Callable[[], list[str]],
        ask: Callable[[str], None],
        progress: Callable[[str], int],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervision = supervision
        self._releases = releases
        self._ask = ask
        self._progress = progress
        self._clock_s = clock_s
        self._due_s: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._question: _Question | None = None

    def fault(self) -> str | None:
        """Why the server needs a restart, in words; None while its answers are right, or not known to be wrong."""
        if self._question is None:
            self._ask_next()
            return None
        if not self._question.done.is_set():
            return self._overdue(self._question)
        question, self._question = self._question, None
        return self._judge(question)

    def _ask_next(self) -> None:
        now_s, releases = self._clock_s(), self._releases()
        self._due_s = {release: self._due_s.get(release, now_s + self._supervision.canary_every_s) for release in releases}
        release = min(self._due_s, key=self._due_s.__getitem__, default=None)
        if release is None or now_s < self._due_s[release]:
            return
        question = _Question(release, now_s, self._progress(release))
        threading.Thread(target=self._wait_for, args=(question,), name=f"canary {release}", daemon=True).start()
        self._question = question

    def _wait_for(self, question: _Question) -> None:
        try:
            self._ask(question.release)
            question.error = None
        except CanaryError as error:
            question.error = error
        finally:
            question.done.set()

    def _overdue(self, question: _Question) -> str | None:
        now_s = self._clock_s()
        if now_s - question.asked_s < self._supervision.canary_answer_s:
            return None
        progress = self._progress(question.release)
        if progress != question.progress:  # it waits its turn behind others
            question.asked_s, question.progress = now_s, progress
            return None
        waited_s = self._supervision.canary_answer_s
        return f"model {question.release!r}: no answer to the canary for {waited_s:.0f} s, nor to any other request"

    def _judge(self, question: _Question) -> str | None:
        now_s, release, error = self._clock_s(), question.release, question.error
        if error is None or _is_busy(error):
            self._due_s[release] = now_s + self._supervision.canary_every_s
            if error is None:
                self._failures[release] = 0
            return None
        self._due_s[release] = now_s + _AGAIN_S
        self._failures[release] = self._failures.get(release, 0) + 1
        if self._failures[release] < self._supervision.canary_failures:
            return None
        return f"{self._failures[release]} canaries in a row failed: {error}"


def _is_busy(error: CanaryError) -> bool:
    cause = error.__cause__
    return isinstance(cause, InferenceServerException) and _FULL_QUEUE in (cause.message() or "")
