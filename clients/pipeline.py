"""Tiles through a model into strips of labels, stages overlapping. Holds a row of tiles and a strip, never a slide; knows neither slides nor servers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from serving.background import to_gray
from serving.contract import Contract

from .ahead import Ahead
from .blend import Blender, CellRows
from .evidence import DEFAULT_GATE, Gate, Place, tile_evidence
from .strips import StripMaker
from .tiling import TileGrid
from .turn import InTurn

Progress = Callable[[int, int], None]  # tiles done, tiles in all
State = dict[str, npt.NDArray[Any]]  # what a later run needs to go on; names and arrays
Tag = TypeVar("Tag")


class TileModel(Protocol):
    """What answers tiles: a served model (`ServedModel`), or one in this process."""

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
        batches_ahead: how many batches may wait before the sender, and as many answers behind it: a thread reads tiles, another sends them,
            while whoever takes the strips makes them. 0 = all in the caller's thread.
        pad: fill the last batch up, so that all have one shape and what else is in a batch changes no answer.
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
    batches_ahead: int = 0
    pad: bool = False


class LabelStrips:
    """Consecutive strips of labels from top to bottom: iterates over (y_m, labels), uint8 (rows, width_m). Iterated over once.

    Whenever a strip was given, `state` says all that the strips below need from above; another `LabelStrips` of the same plan that starts from
    it gives those strips bit for bit, and sends no tile again that the finished ones were made of.

    Args:
        start: a `state` to go on from.
        turn: held while tiles are sent; None = nobody else sends.
        on_rows: given all rows of cells from top to bottom, from the start's on; those that went by belong to `state`.

    Raises:
        ClientError: from the iteration: the slide is damaged, or the model fails.
    """

    def __init__(
        self,
        plan: Plan,
        model: TileModel,
        progress: Progress,
        start: Mapping[str, Any] | None = None,
        turn: threading.Lock | None = None,
        on_rows: Callable[[CellRows], None] = lambda rows: None,
    ) -> None:
        self.plan = plan
        self._model = model
        self._progress = progress
        self._on_rows = on_rows
        self._turn = turn or threading.Lock()
        self._blender = Blender(plan.grid, len(model.contract.task.classes) + 1)
        self._maker = StripMaker(model.contract, plan.grid.height_c, plan.strip_px)
        if start is not None:
            self._blender.restore(start)
            self._maker.restore(start)
        self.kept_tiles = sum(row < self._blender.row for row, _ in plan.places)

    def state(self) -> State:
        """Views of what the next strip changes: to be stored before it is asked for."""
        return self._blender.state() | self._maker.state()

    def __iter__(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        y_m = self._maker.next_m
        for strip in self._strips():
            yield y_m, strip[: self.plan.height_m - y_m, : self.plan.width_m]
            y_m += len(strip)
            del strip  # the next one is made meanwhile, and may be as large

    def _strips(self) -> Iterator[npt.NDArray[np.uint8]]:
        yield from self._maker.complete()
        for rows in _cell_rows(self.plan, self._model, self._progress, self._blender, self._turn):
            self._on_rows(rows)
            yield from self._maker.add(rows)


def label_strips(plan: Plan, model: TileModel, progress: Progress) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """`LabelStrips` from the top, for whoever keeps no state."""
    return iter(LabelStrips(plan, model, progress))


def cell_rows(plan: Plan, model: TileModel, progress: Progress) -> Iterator[CellRows]:
    """Blended rows of cells from top to bottom."""
    return _cell_rows(plan, model, progress, Blender(plan.grid, len(model.contract.task.classes) + 1), threading.Lock())


def _cell_rows(plan: Plan, model: TileModel, progress: Progress, blender: Blender, turn: threading.Lock) -> Iterator[CellRows]:
    """From the blender's row on; a row of tiles is finished when the first tile of a later one arrives."""
    places = [place for place in plan.places if place[0] >= blender.row]
    done = len(plan.places) - len(places)
    progress(done, len(plan.places))
    for tiles, outputs in _answers(plan, places, model, turn):
        asked_for = {name: values[: len(tiles)] for name, values in outputs.items()}  # the padding's answers end here
        answered = tile_evidence(model.contract.kind, asked_for, [tile.place for tile in tiles], plan.gate)
        for tile, evidence in zip(tiles, answered, strict=True):
            row, column = tile.place
            while blender.row < row:
                yield blender.finish_row()
            blender.add(column, evidence, tile.bright)
        done += len(tiles)
        progress(done, len(plan.places))
    while blender.row < plan.grid.rows:
        yield blender.finish_row()


def _answers(
    plan: Plan, places: Sequence[Place], model: TileModel, turn: threading.Lock
) -> Iterator[tuple[list[_Tile], dict[str, npt.NDArray[Any]]]]:
    """Tiles and what the model says of them, in order. Each queue is bounded: whoever is slowest holds back all before it."""
    batches = _read_batches(plan, places, model.contract, min(plan.batch, model.max_batch))
    if not plan.batches_ahead:
        yield from model.stream(batches, plan.in_flight)
        return
    with ExitStack() as stack:
        read = stack.enter_context(Ahead(batches, plan.batches_ahead, "read tiles"))
        to_send = InTurn(read, turn)
        stack.callback(to_send.release)
        yield from stack.enter_context(Ahead(model.stream(to_send, plan.in_flight), plan.batches_ahead, "send tiles"))


def _read_batches(
    plan: Plan, places: Sequence[Place], contract: Contract, size: int
) -> Iterator[tuple[list[_Tile], npt.NDArray[np.uint8]]]:
    rule, side = contract.task.background, contract.task.tile_px
    waiting = iter(places)
    while batch := list(itertools.islice(waiting, size)):
        rgb = np.empty((size if plan.pad else len(batch), side, side, 3), dtype=np.uint8)
        bright = np.zeros((len(batch), side, side), dtype=np.bool_)
        for index, (row, column) in enumerate(batch):
            y_m, x_m = (plan.grid.origin_c(number) * plan.grid.cell_px for number in (row, column))
            rgb[index] = plan.read_tile(x_m, y_m)
            if rule is not None:  # tile by tile: its grays stay in the processor's cache
                bright[index] = to_gray(rgb[index]) > rule.gray_above
        rgb[len(batch) :] = rgb[len(batch) - 1]
        yield [_Tile(place, mask) for place, mask in zip(batch, bright, strict=True)], rgb
