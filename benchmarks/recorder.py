"""A served model that tells what is sent to it. Knows no slide."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from clients.served_model import ServedModel

Tag = TypeVar("Tag")


class Recorder:
    """A model that tells what is sent to it."""

    def __init__(self, model: ServedModel, on_batch: Callable[[Any, npt.NDArray[np.uint8]], None]) -> None:
        self._model = model
        self._on_batch = on_batch
        self.model, self.engine, self.contract, self.max_batch = model.model, model.engine, model.contract, model.max_batch

    def give_up(self) -> None:
        self._model.give_up()

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        return self._model.stream(self._told(batches), in_flight)

    def _told(self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]]) -> Iterator[tuple[Tag, npt.NDArray[np.uint8]]]:
        for tag, tiles in batches:
            self._on_batch(tag, tiles)
            yield tag, tiles
