"""Tiles per second of a stream of batches, by any model that takes them: in this process, served, or null. Knows no machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clients.pipeline import TileModel


@dataclass(frozen=True)
class Stream:
    """What was streamed.

    Attributes:
        bytes_per_s: of tiles there and of answers back, without the protocol's own.
    """

    tiles_per_s: float
    bytes_per_s: float


def stream_for(model: TileModel, tiles: npt.NDArray[np.uint8], batch: int, in_flight: int, seconds: float) -> Stream:
    """Send the tiles again and again for so long, and wait for all answers; what comes before the first answer is not counted.

    Args:
        tiles: uint8 (n, tile_px, tile_px, 3), n ≥ batch.
    """
    end_s = [float("inf")]
    starts = itertools.cycle(range(0, len(tiles) - batch + 1, batch))

    def batches() -> Iterator[tuple[None, npt.NDArray[np.uint8]]]:
        while time.perf_counter() < end_s[0]:
            start = next(starts)
            yield None, tiles[start : start + batch]

    count = size = 0
    start_s = 0.0
    for _, outputs in model.stream(batches(), in_flight):
        if not start_s:
            start_s = time.perf_counter()
            end_s[0] = start_s + seconds
            continue
        count += batch
        size += batch * tiles[0].nbytes + sum(values.nbytes for values in outputs.values())
    passed_s = time.perf_counter() - start_s
    return Stream(count / passed_s, size / passed_s)
