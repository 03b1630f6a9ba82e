"""A model in this process that answers what the tile's colors say (see tests/clients/painted.py): stands in for a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.contract import CAM, PROBABILITIES, SCORES, BackgroundRule, Contract, Kind
from tests.clients.painted import CELL_PX, CLASSES, RULE, contract, read_classes

Tag = TypeVar("Tag")


class PaintedModel:
    """Counts the tiles it was asked for."""

    max_batch = 8

    def __init__(self, kind: Kind = "segment", rule: BackgroundRule | None = RULE, mpp: float = 0.5) -> None:
        self.contract: Contract = contract(kind, rule, mpp)
        self.tiles = 0

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        for tag, tiles in batches:
            self.tiles += len(tiles)
            centers = np.arange(tiles.shape[1] // CELL_PX) * CELL_PX + CELL_PX // 2
            classes = read_classes(tiles[:, centers][:, :, centers])
            levels = (np.eye(CLASSES + 1, dtype=np.uint8)[classes] * 255).transpose(0, 3, 1, 2)
            cam = (levels[:, 1:] > 0).astype(np.float32)
            scores = np.where(cam.max(axis=(2, 3)) > 0, 0.9, 0.1).astype(np.float32)
            yield tag, {PROBABILITIES: levels, CAM: cam, SCORES: scores}
