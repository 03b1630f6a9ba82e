"""Items that a thread makes ahead: order, bound, errors, and that nothing is left when the reader goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.ahead import Ahead


def threads_named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


@settings(deadline=None, max_examples=30)
@given(count=st.integers(0, 40), depth=st.integers(1, 5), read=st.integers(0, 40))
def test_gives_the_items_in_order_and_ends_when_the_reader_does(count: int, depth: int, read: int) -> None:
    with Ahead(iter(range(count)), depth, "numbers") as items:
        got = [item for _, item in zip(range(read), items, strict=False)]
    assert got == list(range(min(count, read)))
    assert threads_named("numbers") == []


def test_no_more_are_made_than_asked_for() -> None:
    made = threading.Semaphore(0)
    count = 0

    def items() -> Iterator[int]:
        nonlocal count
        for number in range(100):
            count += 1
            made.release()
            yield number

    with Ahead(items(), 3, "bounded") as ahead:
        for _ in range(3):
            assert made.acquire(timeout=10)
        assert not made.acquire(timeout=0.05)
        assert next(ahead) == 0
        assert made.acquire(timeout=10)
        assert not made.acquire(timeout=0.05)
        assert count == 4


@pytest.mark.parametrize("error", [ValueError("the reason"), KeyboardInterrupt(), MemoryError()])
def test_an_error_comes_after_the_items_before_it_as_it_was(error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise error

    got: list[int] = []
    with Ahead(items(), 1, "failing") as ahead, pytest.raises(type(error)) as caught:
        list(map(got.append, ahead))
    assert got == [1, 2]
    assert caught.value is error
    assert threads_named("failing") == []


def test_a_generator_is_closed_in_the_thread_that_ran_it() -> None:
    closed_in = []

    def items() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed_in.append(threading.current_thread().name)

    with Ahead(items(), 2, "closing") as ahead:
        next(ahead)
    assert closed_in == ["closing"]


def test_an_error_while_closing_is_not_lost() -> None:
    def items() -> Iterator[int]:
        try:
            yield 0
        finally:
            raise ValueError("too late")

    with Ahead(items(), 2, "late") as ahead:
        assert next(ahead) == 0
        with pytest.raises(ValueError, match="too late"):
            next(ahead)


def test_a_depth_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0"):
        Ahead([1], 0, "none")
