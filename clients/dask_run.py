"""Slides of a run over the workers of a dask.distributed cluster, one task a slide. The only module that imports distributed; knows no command line."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from .batch import OnOutcome, OnTiles, Run
from .dask_task import segment_on_worker, stop_run
from .errors import AwayError, ClientError
from .slide_list import SlideEntry
from .store_url import StoreFolder
from .summary import SlideOutcome
from .tls_files import TlsFiles
from .upload import is_whole

_CONNECT_S = 15.0
_ENDING_S = 60.0  # for slides that are told to stop: they end after the batch that is on the way
_log = logging.getLogger(__name__)


def run_in_dask(run: Run, release: str, entries: Sequence[SlideEntry], address: str, on_tiles: OnTiles, on_outcome: OnOutcome) -> None:
    """Segment slides on workers that see the same files and servers under the same names. A worker that dies is no obstacle: its slide goes to
    another, which goes on after the last finished strip where it sees the journal.

    Args:
        release: that the servers must answer with, for every slide.
        address: of the scheduler, "tcp://host:8786" or "host:8786", or the path of a scheduler file.
        on_tiles: called from a thread of dask's.
        on_outcome: called from the caller's, in the order in which slides end.

    Raises:
        AwayError: no scheduler answers.
        ClientError: dask.distributed is not installed.
    """
    run_id = uuid.uuid4().hex
    told_to_all = _absolute(run)
    with _client(address) as client:
        from distributed import as_completed

        client.subscribe_topic(run_id, lambda event: on_tiles(*event[1]))
        if not client.ncores():
            _log.warning("%s: the scheduler has no workers yet: the slides wait for them", address)
        futures = {
            client.submit(
                segment_on_worker,
                replace(entry, path=entry.path.absolute()),
                forgiving(told_to_all, entry),
                release,
                run_id,
                key=f"histoserve-{run_id}-{entry.path.name}",
                pure=False,
            ): entry
            for entry in entries
        }
        waiting = dict(futures)
        try:
            for future in as_completed(futures, loop=client.loop):  # type: ignore[no-untyped-call]  # dask has types where it likes
                on_outcome(waiting[future], _outcome(future, waiting[future]))
                del waiting[future]
        except BaseException:
            _end(client, run_id, waiting, on_outcome)
            raise


def forgiving(run: Run, entry: SlideEntry) -> Run:
    """The run as one slide's workers are told of it: a worker that dies after it finished the mask leaves it to the next one, which lets it stay.

    A mask that is there before anybody begins is still refused, unless the user said otherwise.
    """
    store = run.store_of(entry)
    is_there = store.exists() if run.url is None else is_whole(StoreFolder(run.url), store.name)
    return run if is_there else replace(run, options=replace(run.options, skip_existing=True))


def _end(client: Any, run_id: str, waiting: Mapping[Any, SlideEntry], on_outcome: OnOutcome) -> None:
    """Have slides at work end after their batch; the others do not begin."""
    client.run(stop_run, run_id)
    end_s = time.monotonic() + _ENDING_S
    while time.monotonic() < end_s and not all(future.done() for future in waiting):
        time.sleep(0.1)
    for future, entry in waiting.items():
        on_outcome(entry, _outcome(future, entry) if future.done() else SlideOutcome(entry.path.name, "interrupted"))
    client.cancel(list(waiting))


def _outcome(future: Any, entry: SlideEntry) -> SlideOutcome:
    from distributed import CancelledError, KilledWorker

    try:
        outcome: SlideOutcome = future.result()
    except KilledWorker:
        reason = f"{entry.path}: expected a worker to survive it, several were killed at it (out of memory?): give them more, or a smaller --batch"
    except CancelledError:
        return SlideOutcome(entry.path.name, "interrupted")
    except Exception as error:  # noqa: BLE001 (one slide fails alone, whatever it is)
        _log.debug("%s", entry.path, exc_info=True)
        reason = f"{entry.path}: expected a worker with the same histoserve, it failed with {type(error).__name__}: {error}: install the same there"
    else:
        return outcome
    return SlideOutcome(entry.path.name, "failed", reason)


@contextmanager
def _client(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ClientError(f"--dask {address}: expected dask.distributed, cannot import it: {error}: install `histoserve[dask]`") from error
    where = {"scheduler_file": address} if Path(address).is_file() else {"address": address}
    try:
        client = Client(**where, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise AwayError(
            f"--dask {address}: expected a dask scheduler, none answers ({error}): start one with `dask scheduler`, or correct the address"
        ) from error
    with client:
        yield client


def _absolute(run: Run) -> Run:
    """The same for processes that were started in other folders."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    tls = run.source.tls
    source = replace(
        run.source,
        repository=run.source.repository.absolute(),
        tls=TlsFiles(absolute(tls.authority), absolute(tls.certificate), absolute(tls.key)),
        headers=absolute(run.source.headers),
    )
    outputs = replace(run.options.outputs, tissue=absolute(run.options.outputs.tissue), roi=absolute(run.options.outputs.roi))
    return replace(run, source=source, output=run.output.absolute(), options=replace(run.options, outputs=outputs))
