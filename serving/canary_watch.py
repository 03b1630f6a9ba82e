"""Asks the served releases for their canary every so often, and tells a hung server from a busy one. Restarts nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tritonclient.utils import InferenceServerException

from .errors import CanaryError
from .restarts import Supervision

_AGAIN_S = 1.0  # after a failure: is it one that stays?
_FULL_QUEUE = "maximum queue size"  # Triton's words; a server that rejects is a server that works


@dataclass(frozen=True)
class Progress:
    """How far a release's models have come.

    Attributes:
        finished: model → requests that it finished, in success or not; empty where the server does not say.
        first: those of them that get a request as it comes, before any other model.
    """

    finished: Mapping[str, int]
    first: frozenset[str]

    def stuck_since(self, before: Progress) -> list[str]:
        """The first models that have finished nothing since, of nobody's."""
        return sorted(model for model in self.first if self.finished.get(model) == before.finished.get(model))


@dataclass
class _Question:
    """One canary on its way, in a thread of its own: no deadline, never canceled."""

    release: str
    asked_s: float
    before: Progress  # when it was asked
    lately: Progress  # when it was last looked at
    done: threading.Event = field(default_factory=threading.Event)
    error: CanaryError | None = field(default_factory=lambda: CanaryError("its thread ended without an answer: a bug of histoserve"))


class CanaryWatch:
    """The canaries of one run, each release's on its own; `fault` is to be called often and never waits for an answer.

    Args:
        releases: the frozen ensembles to ask now; may change between calls.
        ask: one canary of a release; raises CanaryError.
        progress: of the release's models.
        clock_s: of a clock that never goes back.
    """

    def __init__(
        self,
        supervision: Supervision,
        releases: Callable[[], list[str]],
        ask: Callable[[str], None],
        progress: Callable[[str], Progress],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervision = supervision
        self._releases = releases
        self._ask = ask
        self._progress = progress
        self._clock_s = clock_s
        self._due_s: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._questions: dict[str, _Question] = {}

    def fault(self) -> str | None:
        """Why the server needs a restart, in words; None while its answers are right, or not known to be wrong."""
        releases = self._releases()
        self._questions = {release: question for release, question in self._questions.items() if release in releases}  # the others are gone
        for question in tuple(self._questions.values()):
            reason = self._judge(question) if question.done.is_set() else self._overdue(question)
            if reason is not None:
                return reason
        self._ask_what_is_due(releases)
        return None

    def _ask_what_is_due(self, releases: list[str]) -> None:
        now_s = self._clock_s()
        self._due_s = {release: self._due_s.get(release, now_s + self._supervision.canary_every_s) for release in releases}
        for release, due_s in self._due_s.items():
            if due_s <= now_s and release not in self._questions:
                progress = self._progress(release)
                question = self._questions[release] = _Question(release, now_s, progress, progress)
                threading.Thread(target=self._wait_for, args=(question,), name=f"canary {release}", daemon=True).start()

    def _wait_for(self, question: _Question) -> None:
        try:
            self._ask(question.release)
            question.error = None
        except CanaryError as error:
            question.error = error
        finally:
            question.done.set()

    def _overdue(self, question: _Question) -> str | None:
        now_s, waited_s = self._clock_s(), self._supervision.canary_answer_s
        if now_s - question.asked_s < waited_s:
            return None
        progress = self._progress(question.release)
        silence = f"model {question.release!r}: no answer to the canary for {waited_s:.0f} s"
        if progress.finished == question.lately.finished:
            return f"{silence}, nor to any other request"
        if stuck := progress.stuck_since(question.before):  # the other models answer other callers
            return f"{silence}, since {', '.join(stuck)} finishes nothing"
        question.asked_s, question.lately = now_s, progress  # it waits its turn behind others
        return None

    def _judge(self, question: _Question) -> str | None:
        now_s, release, error = self._clock_s(), question.release, question.error
        del self._questions[release]
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
