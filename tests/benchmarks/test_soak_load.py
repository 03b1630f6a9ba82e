"""Callers of the long soak against ways that answer with what they were asked."""

from __future__ import annotations

import threading

import numpy as np

from benchmarks.soak_load import Answers, Batches, Caller, Way
from clients.errors import ServerError

SIZES = (1, 3, 8)


def echo(stop: threading.Event, after: int, spoil: tuple[int, ...] = ()) -> Way:
    """Answers with the tiles themselves; those of the numbers in `spoil` with one byte more."""

    def ask(batches: Batches) -> Answers:
        for number, tiles in enumerate(batches(4)):
            if number == after - 1:
                stop.set()
            yield len(tiles), [tiles + np.uint8(number in spoil)]

    return ask


def run(way: Way, stop: threading.Event, seed: int = 3) -> Caller:
    caller = Caller("one", way, SIZES, seed, stop)
    caller.thread.start()
    caller.thread.join()
    return caller


def test_it_sends_its_sizes_in_turn_until_it_is_stopped() -> None:
    stop = threading.Event()
    caller = run(echo(stop, after=7), stop)
    assert (caller.sent, caller.answered, caller.tiles) == (7, 7, 2 * (1 + 3 + 8) + 1)
    assert (caller.wrong, caller.error) == (0, None)


def test_an_answer_with_another_byte_than_the_first_is_wrong() -> None:
    stop = threading.Event()
    assert run(echo(stop, after=9, spoil=(4, 8)), stop).wrong == 2


def test_an_error_ends_it_and_what_has_no_answer_is_lost() -> None:
    def fail(batches: Batches) -> Answers:
        waiting = iter(batches(4))
        yield len(next(waiting)), []
        next(waiting)
        raise ServerError("gone")

    caller = run(fail, threading.Event())
    assert str(caller.error) == "gone"
    assert (caller.sent, caller.answered) == (2, 1)
