"""Many slides: several at work at a time, one broken slide failing alone. Knows no command line and no file but the slides'."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, Protocol

from .errors import ClientError
from .open_model import ModelSource, open_model
from .remote_slide import scratch_folder, segment_to_store
from .segment import SegmentOptions, SlideModel, segment_slide
from .slide_list import SlideEntry
from .store_url import StoreFolder
from .summary import SlideOutcome

# One slide sends while the next one is opened, its tissue found and its first tiles decoded; it sends when the first has sent its last tile.
SLIDES_AT_WORK = 2
OnTiles = Callable[[str, int, int], None]  # name of the slide, tiles done, tiles in all
OnOutcome = Callable[[SlideEntry, SlideOutcome], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What all slides of a run have in common.

    Attributes:
        source: of the answers.
        output: folder of the results; of those that are not where they belong yet, where there is a `url`.
        options: the scale is the slide's own entry's, where it has one.
        url: of the folder that the results are brought to, on any store that fsspec knows; None = they stay in `output`.
    """

    source: ModelSource
    output: Path
    options: SegmentOptions
    url: str | None = None

    def store_of(self, entry: SlideEntry) -> Path:
        """The slide's mask on this machine."""
        name = f"{entry.path.stem}.ome.zarr"
        return self.output / name if self.url is None else scratch_folder(self.output, entry.path) / name


class _Flag(Protocol):
    def is_set(self) -> bool: ...


class _StoppedError(Exception):
    """The run ends before this slide does."""


def run_in_threads(run: Run, model: SlideModel, entries: Sequence[SlideEntry], on_tiles: OnTiles, on_outcome: OnOutcome) -> None:
    """Segment slides in this process, two at a time, one of them sending.

    Where the caller is interrupted, slides end after the batch that is on the way; what they finished is on disk.

    Args:
        on_tiles: called from the slides' threads.
        on_outcome: called from the caller's, in the order in which slides end.
    """
    stop, turn = threading.Event(), threading.Lock()

    def end() -> None:
        stop.set()
        model.give_up()

    with ThreadPoolExecutor(SLIDES_AT_WORK, thread_name_prefix="slide of the batch") as pool:
        futures = {pool.submit(segment_entry, entry, run, model, on_tiles, stop, turn): entry for entry in entries}
        _collect(futures, end, on_outcome)


def run_in_processes(run: Run, entries: Sequence[SlideEntry], jobs: int, on_tiles: OnTiles, on_outcome: OnOutcome) -> None:
    """The same in `jobs` processes, each with one slide at a time; for servers that one client cannot keep busy."""
    context = multiprocessing.get_context("spawn")  # a forked gRPC client hangs
    stop, queue = context.Event(), context.Queue()
    with ExitStack() as stack:
        stack.enter_context(_pumped(queue, on_tiles))
        pool: Executor = stack.enter_context(ProcessPoolExecutor(jobs, context, _begin_worker, (run, stop, queue)))
        futures = {pool.submit(_work, entry): entry for entry in entries}
        _collect(futures, stop.set, on_outcome)


def segment_entry(
    entry: SlideEntry, run: Run, model: SlideModel, on_tiles: OnTiles, stop: _Flag, turn: threading.Lock | None
) -> SlideOutcome:
    """One slide of a run, whatever becomes of it."""
    name = entry.path.name

    def progress(done: int, total: int) -> None:
        if stop.is_set():
            raise _StoppedError
        on_tiles(name, done, total)

    options = run.options if entry.mpp is None else replace(run.options, mpp=entry.mpp)
    try:
        if stop.is_set():
            raise _StoppedError
        if run.url is None:
            summary = segment_slide(entry.path, model, run.output, options, progress, turn)
        else:
            summary = segment_to_store(entry.path, model, StoreFolder(run.url), run.output, options, progress, turn)
    except _StoppedError:
        return SlideOutcome(name, "interrupted")
    except ClientError as error:
        return SlideOutcome(name, "interrupted") if stop.is_set() else SlideOutcome(name, "failed", str(error))
    except Exception as error:  # noqa: BLE001 (one slide fails alone, whatever it is)
        _log.exception("%s: a bug of histoserve, or a slide that nobody thought of", entry.path)
        return SlideOutcome(
            name, "failed", f"{entry.path}: unexpected {type(error).__name__}: {error}: please report it with the traceback"
        )
    return SlideOutcome(name, "done" if summary else "skipped", None, summary)


def _collect(futures: dict[Future[SlideOutcome], SlideEntry], stop: Callable[[], None], on_outcome: OnOutcome) -> None:
    waiting = set(futures)
    try:
        for future in as_completed(futures):
            on_outcome(futures[future], _outcome(future, futures[future]))
            waiting.discard(future)
    except BaseException:
        stop()
        begun = [future for future in waiting if not future.cancel()]
        for future in begun:
            on_outcome(futures[future], _outcome(future, futures[future]))
        raise


def _outcome(future: Future[SlideOutcome], entry: SlideEntry) -> SlideOutcome:
    try:
        return future.result()
    except BrokenProcessPool:
        reason = f"{entry.path}: a process of this run was killed (out of memory?): run the command again, with fewer --jobs"
        return SlideOutcome(entry.path.name, "failed", reason)


@contextmanager
def _pumped(queue: Any, on_tiles: OnTiles) -> Iterator[None]:
    """Hand on what the processes report, until the block ends."""

    def pump() -> None:
        while (report := queue.get()) is not None:
            on_tiles(*report)

    thread = threading.Thread(target=pump, name="progress of the jobs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        queue.put(None)
        thread.join()
        queue.close()
        queue.join_thread()


_worker: _Worker | None = None


class _Worker:
    """What a process of `run_in_processes` keeps from slide to slide."""

    def __init__(self, run: Run, stop: _Flag, queue: Any) -> None:
        self.run = run
        self.stop = stop
        self.queue = queue
        self._stack = ExitStack()
        self._model: SlideModel | None = None

    def close(self) -> None:
        """Give the server its shared memory and its connection back."""
        self._stack.close()

    def segment(self, entry: SlideEntry) -> SlideOutcome:
        if self._model is None:
            self._model = self._stack.enter_context(open_model(self.run.source))
        return segment_entry(entry, self.run, self._model, lambda *report: self.queue.put(report), self.stop, None)


def _begin_worker(run: Run, stop: _Flag, queue: Any) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells every process; ours is told by the flag
    _worker = _Worker(run, stop, queue)
    Finalize(None, _worker.close, exitpriority=1)  # such a process ends without atexit


def _work(entry: SlideEntry) -> SlideOutcome:
    assert _worker is not None  # the pool's initializer made it
    try:
        return _worker.segment(entry)
    except ClientError as error:
        return SlideOutcome(entry.path.name, "failed", str(error))
