"""Whose turn it is to send: slides that are worked on at the same time reach the server one after the other. Knows no slide."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class InTurn(Generic[T]):
    """Iterates over `items`; takes the turn before the first and gives it back after the last, or when `release` is called.

    So the next slide's first tiles are sent as soon as this slide's last ones are, while its answers are still on the way.
    """

    def __init__(self, items: Iterable[T], turn: threading.Lock) -> None:
        self._items = iter(items)
        self._turn = turn
        self._has_turn = False

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if not self._has_turn:
            self._turn.acquire()
            self._has_turn = True
        try:
            return next(self._items)
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Give the turn back where it is held; a second call does nothing. Not to be called while `next` runs in another thread."""
        if self._has_turn:
            self._has_turn = False
            self._turn.release()
