"""One slide of a run on a worker of a dask cluster. Knows no scheduler beyond the worker it runs in.

The task is idempotent: what it finds of the slide (mask, journal, lock) decides what is left to do.
"""

from __future__ import annotations

import threading
import time

from .batch import OnTiles, Run, segment_entry
from .errors import ClientError, ServerError
from .lock import wait_for_lock
from .open_model import open_model
from .slide_list import SlideEntry
from .summary import SlideOutcome

_REPORT_S = 0.5  # tiles are told of at most so often
_LOCK_S = 120.0  # a worker that the scheduler has lost may still be at work: so long it is waited for
_stopped: set[str] = set()
_turn = threading.Lock()  # of all slides of this process, one sends


def segment_on_worker(entry: SlideEntry, run: Run, release: str, run_id: str) -> SlideOutcome:
    """One slide of a run, whatever becomes of it.

    Args:
        release: that the server must answer with.
        run_id: `stop_run` stops it by; progress is logged as the scheduler's events of this topic.
    """
    name = entry.path.name
    try:
        wait_for_lock(run.store_of(entry), _LOCK_S)
        with open_model(run.source) as model:
            if model.contract.release != release:
                raise ServerError(
                    f"{name}: expected the release {release} of the whole run, the server has {model.contract.release} now: run the command again"
                )
            return segment_entry(entry, run, model, _reporter(run_id), _Stop(run_id), _turn)
    except ClientError as error:
        return SlideOutcome(name, "failed", str(error))


def stop_run(run_id: str) -> None:
    """Slides of that run end after the batch that is on the way; called in each worker's process."""
    _stopped.add(run_id)


class _Stop:
    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def is_set(self) -> bool:
        return self._run_id in _stopped


def _reporter(topic: str) -> OnTiles:
    """Tells the scheduler how far a slide is."""
    from distributed import get_worker

    worker = get_worker()
    next_s = 0.0

    def report(slide: str, done: int, total: int) -> None:
        nonlocal next_s
        if done == total or time.monotonic() >= next_s:
            next_s = time.monotonic() + _REPORT_S
            worker.log_event(topic, [slide, done, total])

    return report
