"""What is remembered of strips that went by: pixels per class and a thumbnail of the mask. Knows no store and no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .frame import Frame
from .thumbnail import LabelThumbnail


class Tally:
    """Takes strips in any order.

    Attributes:
        counts: int64 (C + 1,), pixels of each label.
    """

    def __init__(self, frame: Frame, classes: int) -> None:
        self.counts = np.zeros(classes + 1, dtype=np.int64)
        self._small = LabelThumbnail(frame)

    @property
    def factor(self) -> int:
        """Model pixels per thumbnail pixel."""
        return self._small.factor

    @property
    def thumbnail(self) -> npt.NDArray[np.uint8]:
        return self._small.labels

    def add(self, y_m: int, labels: npt.NDArray[np.uint8]) -> None:
        """A strip of whole rows that starts at model row `y_m`."""
        self._small.add(y_m, labels)
        self.counts += [np.count_nonzero(labels == label) for label in range(len(self.counts))]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a later run needs to go on after these strips."""
        return {"counts": self.counts, "thumbnail": self.thumbnail}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on where the tally of `state` was."""
        self.counts[...] = state["counts"]
        self._small.labels[...] = state["thumbnail"]
