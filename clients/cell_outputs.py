"""What is made of rows of cells while they go by: the probability map and the heat maps, as the flags ask for. Knows no pixels of a mask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import Contract

from .blend import CellRows
from .frame import Frame
from .heatmap import Heatmaps
from .outputs import OutputOptions
from .probability_map import ProbabilityWriter
from .tiling import TileGrid


class CellOutputs:
    """Whatever is made of rows of cells while they go by; nothing, without the flags for it.

    Args:
        store: the mask's name; the files are beside it.
        thumbnail: its shape (height, width).
        factor: model pixels per thumbnail pixel.
        notes: provenance.
        start: a `state` to go on from.
    """

    def __init__(
        self,
        store: Path,
        contract: Contract,
        grid: TileGrid,
        frame: Frame,
        thumbnail: tuple[int, ...],
        factor: int,
        options: OutputOptions,
        notes: Mapping[str, Any],
        start: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> None:
        self._folder = store.parent
        self._stem = store.name.removesuffix(".ome.zarr")
        self._map: ProbabilityWriter | None = None
        self._heat: Heatmaps | None = None
        if options.probabilities:
            mpp_m, shape_c = (frame.mpp_x, frame.mpp_y), (grid.height_c, grid.width_c)
            self._map = ProbabilityWriter(probability_store(store), contract, shape_c, mpp_m, notes, start)
        if options.heatmaps:
            self._heat = Heatmaps(contract.task, (thumbnail[0], thumbnail[1]), factor, grid.cell_px)
            if start is not None:
                self._heat.restore(start)

    def add(self, rows: CellRows) -> None:
        """The next rows of cells, from top to bottom."""
        if self._map is not None:
            self._map.add(rows)
        if self._heat is not None:
            self._heat.add(rows)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a later run needs to go on."""
        return {**(self._map.state() if self._map else {}), **(self._heat.state() if self._heat else {})}

    def finish(self, rgb: npt.NDArray[np.uint8]) -> dict[str, Any]:
        """Write all of it; what the summary says of it. `rgb`: the thumbnail."""
        told: dict[str, Any] = {}
        if self._map is not None:
            self._map.finish()
            told["probabilities"] = self._map.store.name
        if self._heat is not None:
            told["heatmaps"] = [path.name for path in self._heat.save(self._folder, self._stem, rgb)]
        return told


def probability_store(store: Path) -> Path:
    """The probability map that belongs to a mask."""
    return store.with_name(f"{store.name.removesuffix('.ome.zarr')}.probabilities.ome.zarr")
