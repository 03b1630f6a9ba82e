"""Who sends, and when the turn is given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from clients.turn import InTurn


def failing() -> Iterator[int]:
    yield 1
    raise ValueError("the reason")


def test_the_turn_is_held_from_the_first_item_to_the_last() -> None:
    turn = threading.Lock()
    items = InTurn([1, 2], turn)
    assert not turn.locked()
    assert next(items) == 1
    assert turn.locked()
    assert list(items) == [2]
    assert not turn.locked()


def test_an_error_gives_it_back() -> None:
    turn = threading.Lock()
    with pytest.raises(ValueError, match="the reason"):
        list(InTurn(failing(), turn))
    assert not turn.locked()


def test_release_gives_back_only_what_is_held() -> None:
    turn = threading.Lock()
    first, second = InTurn([1, 2], turn), InTurn([1], turn)
    next(first)
    second.release()
    assert turn.locked()
    first.release()
    first.release()
    assert not turn.locked()


def test_another_waits_for_it() -> None:
    turn = threading.Lock()
    first = InTurn([1, 2], turn)
    next(first)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(InTurn([7], turn)))
    thread.start()
    thread.join(0.05)
    assert got == []
    assert list(first) == [2]
    thread.join(10)
    assert got == [7]
