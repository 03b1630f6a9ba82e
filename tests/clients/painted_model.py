"""A model in this process that reads the tiles' colors, and what happens to it on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.contract import SLIDE_OUTPUTS, Contract

from .painted import answers, contract

Tag = TypeVar("Tag")


class PaintedModel:
    """Stands in for a served model.

    Attributes:
        sent: the first pixel rows of every tile that was sent, as bytes, in order: two tiles of a noisy slide never look alike.
        before_batch: called with the number of the batch.
    """

    model = "painted_segment"
    max_batch = 8

    def __init__(
        self, promise: Contract | None = None, before_batch: Callable[[int], None] = lambda number: None, engine: str = "painted"
    ) -> None:
        self.contract = promise or contract()
        self.engine = engine
        self.before_batch = before_batch
        self.sent: list[bytes] = []
        self.shapes: set[tuple[int, ...]] = set()

    def give_up(self) -> None:
        """It never waits."""

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        for number, (tag, tiles) in enumerate(batches):
            self.before_batch(number)
            self.shapes.add(tiles.shape)
            self.sent += [tile[:2].tobytes() for tile in tiles]
            everything = answers(tiles)
            yield tag, {name: everything[name] for name in SLIDE_OUTPUTS[self.contract.kind]}
