"""Calls that failed, were given up or tried again keep neither their tiles nor their answers: freed by themselves, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import clients.fleet
from clients.async_tile_client import AsyncTileClient
from clients.call_errors import DeadlineError, FailedError
from clients.tile_client import TileClient

from .fake_triton import Failure
from .painted import contract, paint, stripes
from .test_tile_client import AWAY, BROKEN, PaintedTriton, png, tiles

Refs = list[weakref.ref[Any]]
ENDINGS: dict[str, list[Failure | None]] = {"done": [], "tried again": [AWAY, AWAY], "failed": [None, BROKEN], "given up": []}
_SLOW_S = 0.1


@pytest.fixture(autouse=True)
def uncollected(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cycles stay; no waiting between tries."""
    monkeypatch.setattr(clients.fleet, "_WAITS_S", (0.01,))
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def watch(monkeypatch: pytest.MonkeyPatch, client: TileClient) -> Refs:
    """References to every array that comes from the server."""
    (endpoint,) = client.requests.fleet._endpoints
    infer, refs = endpoint.infer, Refs()

    def infer_watched(request: Any) -> Any:
        answer = infer(request)
        refs.extend(weakref.ref(values) for values in answer.values())
        return answer

    monkeypatch.setattr(endpoint, "infer", infer_watched)
    return refs


def require_freed(refs: Refs) -> None:
    """Soon: a thread that has given its answer still has to let go of it."""
    end_s = time.monotonic() + 5
    while (left := sum(ref() is not None for ref in refs)) and time.monotonic() < end_s:
        time.sleep(0.01)
    assert left == 0
    assert len(refs) > 1


def delay_s(ending: str) -> float:
    return _SLOW_S * (ending == "given up")


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_call(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    given, came = tiles(20), "done"
    with (
        PaintedTriton(contract(), failures=list(ENDINGS[ending]), delay_s=lambda number: delay_s(ending)) as server,
        TileClient(server.address, "painted", in_flight=2) as client,
    ):
        client.contract()
        refs = watch(monkeypatch, client)
        refs.append(weakref.ref(given))
        try:
            client.segment(given, deadline_s=_SLOW_S / 2 if ending == "given up" else None)
        except FailedError:
            came = "failed"
        except DeadlineError:
            came = "given up"
        del given
    assert came == ("done" if ending == "tried again" else ending)
    require_freed(refs)


@pytest.mark.parametrize("how", ["canceled", "deadline"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_task(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ending: str, how: str) -> None:
    async def call() -> tuple[str, Refs]:
        given, came = tiles(20), "done"
        async with AsyncTileClient(server.address, "painted", in_flight=2) as client:
            await client.contract()
            refs = watch(monkeypatch, client._client)
            refs.append(weakref.ref(given))
            is_late = ending == "given up" and how == "deadline"
            task = asyncio.create_task(client.segment(given, deadline_s=_SLOW_S / 2 if is_late else None))
            if ending == "given up" and how == "canceled":
                await asyncio.sleep(_SLOW_S / 2)
                task.cancel()
            try:
                await task
            except FailedError:
                came = "failed"
            except (DeadlineError, asyncio.CancelledError):
                came = "given up"
            del given, task
        return came, refs

    with PaintedTriton(contract(), failures=list(ENDINGS[ending]), delay_s=lambda number: delay_s(ending)) as server:
        came, refs = asyncio.run(call())
    assert came == ("done" if ending == "tried again" else ending)
    require_freed(refs)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


def test_an_image_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    data, failed = png(paint(stripes((150, 410), margin=40))), False
    with PaintedTriton(contract(), failures=[None, BROKEN]) as server, TileClient(server.address, "painted", in_flight=2) as client:
        client.contract()
        refs = watch(monkeypatch, client)
        try:
            client.segment_image(data)
        except FailedError:
            failed = True
    assert failed
    refs.append(weakref.ref(np.zeros(1)))
    require_freed(refs)
