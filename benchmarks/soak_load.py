"""Callers of the long soak, one for each way in: the slide models, the entries of tiles, the one of image files. Knows no server process."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from clients.errors import ClientError
from clients.served_model import ServedModel
from clients.tile_client import TileClient
from serving.contract import Kind
from serving.png_file import encode_png

_IN_FLIGHT = 3
_PATIENCE_S = 300.0  # longer than any restart on a busy machine
_KINDS: tuple[Kind, ...] = ("segment", "cam")

Tiles = npt.NDArray[np.uint8]
Batches = Callable[[int], Iterator[Tiles]]  # side of a tile in pixels → batches without end
Answers = Iterator[tuple[int, Sequence[npt.NDArray[Any]]]]  # how many tiles, and what was said of them, in the order of the batches
Way = Callable[[Batches], Answers]


class Caller:
    """Calls without a pause, counts, and holds each answer against the first one to the same tiles.

    Attributes:
        wrong: answers with another byte than the first.
        error: what ended it early.
    """

    def __init__(self, name: str, way: Way, sizes: Sequence[int], seed: int, stop: threading.Event) -> None:
        self.sent = self.answered = self.tiles = self.wrong = 0
        self.error: ClientError | None = None
        self._way, self._sizes, self._seed, self._stop = way, sizes, seed, stop
        self._first: dict[int, bytes] = {}
        self.thread = threading.Thread(target=self._run, name=name)

    def _run(self) -> None:
        try:
            for count, arrays in self._way(self._batches):
                self.answered += 1
                self.tiles += count
                told = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).digest()
                self.wrong += self._first.setdefault(count, told) != told
        except ClientError as error:
            self.error = error

    def _batches(self, side_px: int) -> Iterator[Tiles]:
        noise = np.random.default_rng(self._seed).integers(0, 256, (max(self._sizes), side_px, side_px, 3), dtype=np.uint8)
        while not self._stop.is_set():
            count = self._sizes[self.sent % len(self._sizes)]
            self.sent += 1
            yield noise[:count]


def entries_of(model: str) -> list[str]:
    """What the server must serve for them."""
    return [*(f"{model}_{kind}" for kind in _KINDS), f"{model}_segment_image"]


def callers_of(address: str, model: str, sizes: Sequence[int], seed: int, stop: threading.Event) -> list[Caller]:
    """One for each way in, not started yet."""
    ways = {f"{kind}, slides": _slides(address, f"{model}_{kind}") for kind in _KINDS}
    ways |= {kind: _tiles(address, model, kind) for kind in _KINDS}
    callers = [Caller(name, way, sizes, seed + number, stop) for number, (name, way) in enumerate(ways.items())]
    return [*callers, Caller("image files", _files(address, model), (1,), seed, stop)]


def _slides(address: str, entry: str) -> Way:
    def ask(batches: Batches) -> Answers:
        with ServedModel(address, entry) as client:
            tagged = ((len(tiles), tiles) for tiles in batches(client.contract.task.tile_px))
            for count, outputs in client.stream(tagged, _IN_FLIGHT):
                yield count, list(outputs.values())

    return ask


def _tiles(address: str, model: str, kind: Kind) -> Way:
    def ask(batches: Batches) -> Answers:
        with TileClient(address, model, patience_s=_PATIENCE_S) as client:
            for tiles in batches(client.contract(kind).task.tile_px):
                if kind == "segment":
                    segmentation = client.segment(tiles)
                    yield len(tiles), [segmentation.labels, segmentation.levels]
                else:
                    activation = client.cam(tiles)
                    yield len(tiles), [activation.labels, activation.cam, activation.scores]

    return ask


def _files(address: str, model: str) -> Way:
    def ask(batches: Batches) -> Answers:
        with TileClient(address, model, patience_s=_PATIENCE_S) as client:
            for tiles in batches(client.contract().task.tile_px):
                segmentation = client.segment_image(encode_png(tiles[0]))
                yield 1, [segmentation.labels, segmentation.levels]

    return ask
