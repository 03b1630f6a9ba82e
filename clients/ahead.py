"""An iterable that a thread runs a bounded number of items ahead of its reader. Knows nothing of what the items are."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterates over `items`, which a thread of its own begins to make at once; a context manager.

    The thread asks for an item only when there is room for it, so that at most `depth` exist beyond the one that the reader holds.
    An error of `items` is raised to the reader, after the items that came before it.

    Args:
        depth: at least 1.
        name: of the thread.
    """

    def __init__(self, items: Iterable[T], depth: int, name: str) -> None:
        if depth < 1:
            raise ValueError(f"expected to be at least 1 item ahead, got {depth}")
        self._depth = depth
        self._made: deque[T] = deque()
        self._error: BaseException | None = None
        self._is_finished = False
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._make, args=(items,), name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            self._changed.wait_for(lambda: self._made or self._is_finished or self._is_closed)
            if self._made:
                item = self._made.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    def close(self) -> None:
        """Ask for no further item and wait until the thread has ended; what it was making is finished and dropped."""
        with self._changed:
            self._is_closed = True
            self._made.clear()
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _make(self, items: Iterable[T]) -> None:
        iterator = iter(items)
        try:
            while self._wait_for_room():
                item = next(iterator)
                with self._changed:
                    self._made.append(item)
                    self._changed.notify_all()
                del item
        except StopIteration:
            pass
        except BaseException as error:  # noqa: BLE001 (whatever it is, it is the reader's)
            self._error = error
        finally:
            self._finish(iterator)

    def _finish(self, iterator: Iterator[T]) -> None:
        """A generator is closed here, by the thread that ran it: what it waits for then is waited for in `close`."""
        try:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        except BaseException as error:  # noqa: BLE001 (as above)
            self._error = self._error or error
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Whether another item is wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or len(self._made) < self._depth)
            return not self._is_closed
