"""Tiles through a model into strips of labels. Holds a row of tiles and a strip, never a slide; knows neither slides nor servers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from serving.background import to_gray
from serving.contract import Contract

from .blend import Blender, CellRows
from .evidence import DEFAULT_GATE, Gate, Place, tile_evidence
from .strips import StripMaker
from .tiling import TileGrid

Progress = Callable[[int, int], None]  # tiles done, tiles in all
Tag = TypeVar("Tag")
_NO_RULE_GRAY = 256.0


class TileModel(Protocol):
    """What answers tiles: a served model (`TileClient`), or one in this process."""

    @property
    def contract(self) -> Contract: ...

    @property
    def max_batch(self) -> int: ...

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        """Tags and outputs, in the order of the batches."""


@dataclass(frozen=True)
class _Tile:
    """What is kept of a tile while it is on the way."""

    place: Place
    bright: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """What is to be done to one slide or image.

    Attributes:
        read_tile: (x_m, y_m) of a tile's upper left pixel → uint8 RGB (tile_px, tile_px, 3); may lie partly outside.
        places: the tiles to send, top to bottom, left to right.
        batch: tiles per request.
        in_flight: requests on the way at a time.
        strip_px: rows of the strips that come out.
        gate: the classes that count on a tile, for models that give CAMs.
    """

    read_tile: Callable[[int, int], npt.NDArray[np.uint8]]
    width_m: int
    height_m: int
    grid: TileGrid
    places: Sequence[Place]
    batch: int
    in_flight: int
    strip_px: int
    gate: Gate = DEFAULT_GATE


def label_strips(plan: Plan, model: TileModel, progress: Progress) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(y_m, labels) of consecutive strips from top to bottom, uint8 (rows, width_m).

    Raises:
        ClientError: the slide is damaged, or the server fails.
    """
    maker = StripMaker(model.contract, plan.grid.height_c, plan.strip_px)
    y_m = 0
    for rows in cell_rows(plan, model, progress):
        for strip in maker.add(rows):
            labels = strip[: plan.height_m - y_m, : plan.width_m]
            yield y_m, labels
            y_m += len(strip)


def cell_rows(plan: Plan, model: TileModel, progress: Progress) -> Iterator[CellRows]:
    """Blended rows of cells from top to bottom: a row of tiles is finished when the first tile of a later one arrives."""
    blender = Blender(plan.grid, len(model.contract.task.classes) + 1)
    batches = _read_batches(plan, model.contract, min(plan.batch, model.max_batch))
    done = 0
    for tiles, outputs in model.stream(batches, plan.in_flight):
        answered = tile_evidence(model.contract.kind, outputs, [tile.place for tile in tiles], plan.gate)
        for tile, evidence in zip(tiles, answered, strict=True):
            row, column = tile.place
            while blender.row < row:
                yield blender.finish_row()
            blender.add(column, evidence, tile.bright)
        done += len(tiles)
        progress(done, len(plan.places))
    while blender.row < plan.grid.rows:
        yield blender.finish_row()


def _read_batches(plan: Plan, contract: Contract, size: int) -> Iterator[tuple[list[_Tile], npt.NDArray[np.uint8]]]:
    rule = contract.task.background
    gray_above = rule.gray_above if rule else _NO_RULE_GRAY
    places = iter(plan.places)
    while batch := list(itertools.islice(places, size)):
        corners = ([plan.grid.origin_c(index) * plan.grid.cell_px for index in place] for place in batch)
        rgb = np.stack([plan.read_tile(x_m, y_m) for y_m, x_m in corners])
        bright = to_gray(rgb) > gray_above
        yield [_Tile(place, mask) for place, mask in zip(batch, bright, strict=True)], rgb
