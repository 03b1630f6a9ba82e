"""A slide's tiles through the server into strips of labels. Holds a row of tiles and a strip, never a slide; knows no files but the slide."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.background import to_gray
from serving.contract import Contract

from .blend import Blender, CellRows
from .evidence import tile_evidence
from .frame import Frame, read_frame
from .inference import TileClient
from .slide import Slide
from .strips import StripMaker
from .tiling import TileGrid

Progress = Callable[[int, int], None]  # tiles done, tiles in all
Place = tuple[int, int]  # row and column of the grid
_NO_RULE_GRAY = 256.0


@dataclass(frozen=True)
class _Tile:
    """What is kept of a tile while it is on the way."""

    place: Place
    bright: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Plan:
    """What is to be done to one slide.

    Attributes:
        places: the tiles to send, top to bottom, left to right.
        batch: tiles per request.
        in_flight: requests on the way at a time.
        strip_px: rows of the strips that come out.
    """

    frame: Frame
    grid: TileGrid
    places: Sequence[Place]
    batch: int
    in_flight: int
    strip_px: int


def label_strips(slide: Slide, plan: Plan, client: TileClient, progress: Progress) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(y_m, labels) of consecutive strips of the whole slide, uint8 (rows, width_m).

    Raises:
        ClientError: the slide is damaged, or the server fails.
    """
    frame, grid, contract = plan.frame, plan.grid, client.contract
    maker = StripMaker(contract, grid.height_c, plan.strip_px)
    y_m = 0
    for rows in _cell_rows(slide, plan, client, progress):
        for strip in maker.add(rows):
            labels = strip[: frame.height_m - y_m, : frame.width_m]
            yield y_m, labels
            y_m += len(strip)


def _cell_rows(slide: Slide, plan: Plan, client: TileClient, progress: Progress) -> Iterator[CellRows]:
    """Blend what comes back, and finish a row of tiles when the first tile of a later one arrives."""
    blender = Blender(plan.grid, len(client.contract.task.classes) + 1)
    batches = _read_batches(slide, plan, client.contract, min(plan.batch, client.max_batch))
    done = 0
    for tiles, outputs in client.stream(batches, plan.in_flight):
        for tile, evidence in zip(tiles, tile_evidence(client.contract.kind, outputs), strict=True):
            row, column = tile.place
            while blender.row < row:
                yield blender.finish_row()
            blender.add(column, evidence, tile.bright)
        done += len(tiles)
        progress(done, len(plan.places))
    while blender.row < plan.grid.rows:
        yield blender.finish_row()


def _read_batches(slide: Slide, plan: Plan, contract: Contract, size: int) -> Iterator[tuple[list[_Tile], npt.NDArray[np.uint8]]]:
    rule = contract.task.background
    gray_above = rule.gray_above if rule else _NO_RULE_GRAY
    places = iter(plan.places)
    while batch := list(itertools.islice(places, size)):
        rgb = np.stack([_read_tile(slide, plan, place, contract.task.tile_px) for place in batch])
        bright = to_gray(rgb) > gray_above
        yield [_Tile(place, mask) for place, mask in zip(batch, bright, strict=True)], rgb


def _read_tile(slide: Slide, plan: Plan, place: Place, tile_px: int) -> npt.NDArray[np.uint8]:
    y_m, x_m = (plan.grid.origin_c(index) * plan.grid.cell_px for index in place)
    return read_frame(slide, plan.frame, x_m, y_m, tile_px, tile_px)
