"""Requests from the callers' own threads: in the same window as the pool's, waited for by whoever closes, and never from the main thread."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import clients.tile_requests
from clients.call_errors import ClosedError
from clients.tile_client import TileClient

from .painted import contract
from .test_tile_client import PaintedTriton, require_right, tiles


def test_calls_of_one_batch_and_of_many_share_the_window() -> None:
    with (
        PaintedTriton(contract(), delay_s=lambda number: 0.02) as server,
        TileClient(server.address, "painted", in_flight=2) as client,
        ThreadPoolExecutor(6) as pool,
    ):
        for result in pool.map(lambda count: client.segment(tiles(count)), [8, 20, 3, 30, 1, 8]):
            require_right(result.labels, result.levels)
        assert server.most_at_once == 2


@pytest.mark.parametrize(
    ("call_thread", "count", "deadline_s", "here"),
    [("own", 8, None, True), ("own", 9, None, False), ("own", 8, 9.0, False), ("main", 8, None, False)],
)
def test_which_thread_sends(monkeypatch: pytest.MonkeyPatch, call_thread: str, count: int, deadline_s: float | None, here: bool) -> None:
    """Ctrl-C reaches the main thread alone, and gRPC would cancel what that waits for."""
    senders: list[str] = []
    with PaintedTriton(contract()) as server, TileClient(server.address, "painted") as client:
        entry = client.entry("segment")
        (endpoint,) = client.requests.fleet._endpoints
        send = endpoint.infer

        def infer(*given: Any) -> Any:
            senders.append(threading.current_thread().name)
            return send(*given)

        monkeypatch.setattr(endpoint, "infer", infer)

        def call() -> None:
            result = client.requests.ask_tiles(entry, tiles(count), None if deadline_s is None else time.monotonic() + deadline_s)
            assert len(result["LABELS"]) == count

        if call_thread == "main":
            call()
        else:
            with ThreadPoolExecutor(1, thread_name_prefix="callers") as pool:
                pool.submit(call).result()
    assert {sender.startswith("callers") for sender in senders} == {here}


def test_closing_waits_for_the_answer_of_another_thread() -> None:
    sent, release = threading.Event(), threading.Event()

    def delay_s(number: int) -> float:
        sent.set()
        release.wait()
        return 0.0

    with PaintedTriton(contract(), delay_s=delay_s) as server, ThreadPoolExecutor(2) as pool:
        client = TileClient(server.address, "painted", in_flight=1)
        first = pool.submit(client.segment, tiles(3))
        assert sent.wait(10)
        closing = threading.Thread(target=client.close)
        closing.start()
        while True:  # until it is closed for callers
            try:
                client.segment(tiles(1), deadline_s=0)
            except ClosedError:
                break
            except TimeoutError:
                continue
        assert closing.is_alive()
        release.set()
        closing.join()
        require_right(first.result().labels, first.result().levels)
        with pytest.raises(ClosedError):
            pool.submit(client.segment, tiles(1)).result()


def test_closing_waits_no_longer_than_it_says_and_tells_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(clients.tile_requests, "CLOSE_S", 0.05)
    sent, release = threading.Event(), threading.Event()

    def delay_s(number: int) -> float:
        sent.set()
        release.wait(10)
        return 0.0

    with PaintedTriton(contract(), delay_s=delay_s) as server, ThreadPoolExecutor(2) as pool:
        client = TileClient(server.address, "painted", in_flight=1)
        first = pool.submit(client.segment, tiles(3))
        assert sent.wait(10)
        second = pool.submit(client.segment, tiles(3))
        client.close()
        with pytest.raises(ClosedError, match="the answer did not come"):
            first.result()
        with pytest.raises(ClosedError, match="make calls inside its with block"):
            second.result()
        release.set()
    assert "closed with 1 requests on the way" in caplog.text


def test_it_may_be_closed_by_several_threads_and_again() -> None:
    with PaintedTriton(contract(), delay_s=lambda number: 0.05) as server, ThreadPoolExecutor(5) as pool:
        client = TileClient(server.address, "painted", in_flight=3)
        client.contract()
        calls = [pool.submit(client.segment, tiles(8)) for _ in range(2)]
        while len(server.requests) < 2:
            threading.Event().wait(0.01)
        for closing in [pool.submit(client.close) for _ in range(3)]:
            closing.result(timeout=10)
        client.close()
        for call in calls:
            require_right(call.result().labels, call.result().levels)
