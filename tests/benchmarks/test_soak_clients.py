"""The soak's judgment: a wrong byte, a lost call and a kill without recovery are each told. Its callers are right and give up as they say."""

from __future__ import annotations

import dataclasses
import gc
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
import pytest

from benchmarks.soak_callers import AsyncCaller, Caller, Counts, Drawn, Habits, Known, PythonCaller, SyncCaller, sum_of
from benchmarks.soak_clients import KEPT, ClientSample, SoakClients, count_futures, is_good, kill_time_s, trends
from benchmarks.soak_trend import Trend
from clients.call_results import Segmentation
from tests.clients.painted import contract
from tests.clients.test_tile_client import PaintedTriton, tiles

HABITS = Habits(batches=(1, 9), abandoned=0.5)


def known_of(count: int) -> Known:
    """Of the fake server, read from what it paints."""
    painted = tiles(count)
    classes = np.arange(count) % 4 + 1
    labels = np.broadcast_to(classes[:, None, None], painted.shape[:3]).astype(np.uint8)
    levels = np.zeros((count, 5, 16, 16), np.uint8)
    levels[np.arange(count), classes] = 255
    return Known(painted, labels, levels)


def run(caller: Caller, is_enough: Callable[[Counts], bool]) -> None:
    caller.start()
    end_s = time.monotonic() + 60
    while not is_enough(caller.counts) and caller.counts.error is None and time.monotonic() < end_s:
        time.sleep(0.01)
    caller.finish()


@pytest.mark.parametrize("form", [SyncCaller, AsyncCaller])
def test_a_caller_answers_for_every_call(form: type[PythonCaller]) -> None:
    """Half of them are given up within 0.3 s, of which the server takes some."""
    with PaintedTriton(contract(), delay_s=lambda number: 0.1 * (number % 3)) as server:
        caller = form("one", server.address, "painted", known_of(20), HABITS, seed=3)
        run(caller, lambda counts: counts.answered >= 5 and counts.abandoned >= 2)
        counts = caller.counts
    assert counts.error is None
    assert counts.sent == counts.answered + counts.abandoned
    assert counts.answered >= 5
    assert counts.abandoned >= 2
    assert counts.wrong == 0
    assert counts.answered <= counts.tiles <= 9 * counts.answered


@pytest.mark.parametrize("form", [SyncCaller, AsyncCaller])
@pytest.mark.parametrize("part", ["labels", "levels"])
def test_one_other_byte_is_a_wrong_answer(form: type[PythonCaller], part: str) -> None:
    known = known_of(9)
    getattr(known, part)[4].flat[7] += 1
    with PaintedTriton(contract()) as server:
        caller = form("one", server.address, "painted", known, Habits((9,), 0.0), seed=3)
        run(caller, lambda counts: counts.answered >= 2)
    assert caller.counts.wrong == caller.counts.answered >= 2


def test_an_error_ends_the_caller_and_is_kept() -> None:
    with PaintedTriton(contract()) as server:
        caller = SyncCaller("one", server.address, "absent", known_of(9), HABITS, seed=3)
        run(caller, lambda counts: False)
    assert caller.counts.error is not None
    assert caller.counts.error.startswith("MissingModelError: ")
    assert (caller.counts.sent, caller.counts.answered) == (1, 0)


def test_calls_are_drawn_the_same_from_the_same_seed_and_within_the_tiles() -> None:
    known = known_of(20)
    first, second = Drawn(known, HABITS, seed=5), Drawn(known, HABITS, seed=5)
    given_up = 0
    for number in range(200):
        start, part, patience_s = first.next(number)
        again = second.next(number)
        assert (start, patience_s) == (again[0], again[2])
        np.testing.assert_array_equal(part, known.tiles[start : start + (1, 9)[number % 2]])
        assert len(part) == (1, 9)[number % 2]
        given_up += patience_s is not None
    assert 60 < given_up < 140


def test_the_answer_of_other_tiles_is_wrong() -> None:
    known = known_of(6)
    result = Segmentation(contract(), known.labels[1:3], known.levels[1:3])
    assert known.is_right(1, result)
    assert not known.is_right(2, result)


def test_kills_are_in_the_first_half() -> None:
    options = SoakClients(minutes=10, kills=4)
    assert [kill_time_s(options, killed) for killed in range(4)] == [75.0, 150.0, 225.0, 300.0]


def good_result() -> dict[str, Any]:
    counts = dataclasses.asdict(Counts(sent=3, answered=2, abandoned=1))
    return {
        "wrong": 0,
        "lost": 0,
        "kills": 1,
        "restarts": [{}],
        "callers": {"sync 0": counts},
        "trends": {KEPT: dataclasses.asdict(Trend(0, 5, 0.5, 0.2))},
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"wrong": 1},
        {"lost": 1},
        {"trends": {KEPT: dataclasses.asdict(Trend(0, 90, 1.5, 0.4))}},
        {"restarts": []},
        {"restarts": [{}, {}]},
        {"callers": {"node 0": dataclasses.asdict(Counts(sent=1, abandoned=1))}},
        {"callers": {"node 0": dataclasses.asdict(Counts(1, 1, error="node ended with exit code 1"))}},
    ],
)
def test_what_makes_a_soak_fail(bad: dict[str, Any]) -> None:
    assert is_good(good_result())
    assert not is_good(good_result() | bad)


@pytest.mark.parametrize("kept", [0, 3])
def test_what_calls_keep_is_told_from_what_is_on_the_way(kept: int) -> None:
    """In a saw-tooth of 300, by which the kept ones are hidden at first."""
    noise = random.Random(1)
    samples = [
        ClientSample(5.0 * number, 0, {"client": 200 + noise.random() * 50}, kept * 2 * number + noise.randrange(300), 2 * number)
        for number in range(200)
    ]
    found = trends(samples)
    line = found[KEPT]
    assert abs(line.per_unit - kept) < 1.5 * line.uncertainty < 1
    assert line.is_at_least(1) == (kept > 0)
    assert abs(found["client, MB an hour"].per_unit) < 2 * found["client, MB an hour"].uncertainty


def test_of_few_looks_nothing_is_said() -> None:
    assert trends([ClientSample(5.0 * number, 0, {"client": 200.0}, 0, number) for number in range(20)]) == {}
    assert trends([]) == {}
    assert trends([ClientSample(5.0 * number, 0, {}, 4, 0) for number in range(99)]) == {}  # nothing was abandoned


def test_futures_are_counted_those_in_cycles_too() -> None:
    gc.collect()
    before = count_futures()
    kept = [Future[None]() for _ in range(3)]
    kept[0].add_done_callback(partial(print, kept[0]))  # knows itself
    assert count_futures() == before + 3
    del kept
    assert count_futures() == before + 1
    gc.collect()
    assert count_futures() == before


def test_only_who_is_never_killed_has_a_trend() -> None:
    process_mb = {"client": 200.0, "triton": 100.0, "node 0": 60.0}
    samples = [ClientSample(5.0 * number, 0, process_mb, number % 3, number) for number in range(40)]
    assert set(trends(samples)) == {KEPT, "client, MB an hour", "node 0, MB an hour"}


def test_all_counts_together() -> None:
    callers = [SyncCaller(name, "nowhere:1", "painted", known_of(9), HABITS, seed=1) for name in ("one", "two")]
    callers[0].counts, callers[1].counts = Counts(5, 3, 2, 1, 20, "lost"), Counts(7, 7, 0, 0, 30)
    assert sum_of(callers) == {"sent": 12, "answered": 10, "abandoned": 2, "wrong": 1, "tiles": 50}
