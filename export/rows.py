"""Does each row of a batch answer as it did alone, whatever stands beside it? Knows no network and no limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import LABELS, TILE

from .engines import Runner
from .runtime import LOGITS

BATCH_SIZES = (1, 2, 3, 7, 8, 16)
_NOISE = -1

Tiles = npt.NDArray[np.uint8]
Outputs = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Regrouped:
    """A batch made of known tiles.

    Attributes:
        sources: which tile each row is; -1 = noise.
        kind: for messages.
    """

    tiles: Tiles
    sources: npt.NDArray[np.int64]
    kind: str

    @property
    def rows(self) -> list[int]:
        """The rows that are tiles."""
        return [int(row) for row in np.flatnonzero(self.sources != _NOISE)]


@dataclass(frozen=True)
class RowErrors:
    """Worst case over all batches.

    Attributes:
        equal_max_abs: logits of rows that are the same tile in the same batch; 0 = the same bit for bit.
        worst: (tile, its labels in that batch, which batch) of the lowest agreement.
    """

    logits_max_abs: float
    label_agreement: float
    equal_max_abs: float
    worst: tuple[int, npt.NDArray[np.uint8], str]


def measure_rows(graph: Runner, answer: Outputs, tiles: Tiles) -> RowErrors:
    """Ask again in other batches.

    Args:
        graph: gives LABELS and LOGITS.
        answer: what it gave for the tiles, one after the other.
    """
    errors, equal, agreement = [0.0], [0.0], 1.0
    worst = (0, answer[LABELS][0], "the batch itself")
    for batch in regrouped(tiles):
        again = graph.run({TILE: batch.tiles})
        errors.append(max_abs(again[LOGITS][batch.rows], answer[LOGITS][batch.sources[batch.rows]]))
        equal.append(_equal_rows(batch, again[LOGITS]))
        for row in batch.rows:
            source = int(batch.sources[row])
            shared = float((again[LABELS][row] == answer[LABELS][source]).mean())
            if shared < agreement:
                agreement, worst = shared, (source, again[LABELS][row], f"row {row} of {len(batch.tiles)} {batch.kind}")
    return RowErrors(float(np.max(errors)), agreement, float(np.max(equal)), worst)  # np.max keeps a NaN


def regrouped(tiles: Tiles) -> Iterator[Regrouped]:
    """Per size one batch of shuffled tiles, its last row the first again, and one of noise around a single tile.

    Tiles repeat where fewer than a batch are given.
    """
    generator = np.random.default_rng(0)
    for size in BATCH_SIZES:
        chosen = np.resize(generator.permutation(len(tiles)), size)
        if size > 1:
            chosen[-1] = chosen[0]
        yield Regrouped(tiles[chosen], chosen, "shuffled tiles")
        if size > 1:
            yield _among_noise(tiles, size, generator)


def _among_noise(tiles: Tiles, size: int, generator: np.random.Generator) -> Regrouped:
    batch = generator.integers(0, 256, (size, *tiles.shape[1:]), dtype=np.uint8)
    sources = np.full(size, _NOISE)
    row, source = int(generator.integers(1, size)), int(generator.integers(len(tiles)))  # never first: a row may see only the first
    batch[row], sources[row] = tiles[source], source
    return Regrouped(batch, sources, "among noise")


def _equal_rows(batch: Regrouped, logits: npt.NDArray[Any]) -> float:
    """The largest difference between a row and the first row that is the same tile."""
    first: dict[int, int] = {}
    pairs = [(first.setdefault(int(batch.sources[row]), row), row) for row in batch.rows]
    return float(np.max([max_abs(logits[one], logits[other]) for one, other in pairs]))


def max_abs(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The largest difference; NaN where there is one."""
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())
