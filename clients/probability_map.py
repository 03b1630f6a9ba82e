"""The network's evidence as an OME-Zarr image on the cell grid, written while rows of cells go by; holds a row of shards. Knows no server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.errors

from serving.contract import Contract
from serving.probabilities import quantize

from . import zarr_pipeline  # noqa: F401
from .blend import CellRows
from .errors import OutputError
from .journal import sync_file
from .omezarr import NGFF, level_count, multiscale

CHUNK_C = 512
_SHARD_WIDTH_C = 8 * CHUNK_C
_GRAY = "C0C0C0"

State = Mapping[str, npt.NDArray[Any]]


class ProbabilityWriter:
    """Writes `S.probabilities.ome.zarr`: uint8 (channels, height_c, width_c), 255 = certain. The store gets its name in `finish`, in the place of one that has it.

    A segmenter's channels are background and the classes, before the background rule; what no tile covered is background. A classifier's
    are the classes, CAM × SCORES.

    Args:
        shape_c: (height_c, width_c) of the slide.
        mpp: micrometers per model pixel, (x, y).
        notes: provenance, JSON-ready; stored as the attribute "histoserve".
        state: what `state` gave in a run that was interrupted; its unfinished store is gone on with. None = anew.

    Raises:
        OutputError: its folder cannot be written.
    """

    def __init__(
        self,
        store: Path,
        contract: Contract,
        shape_c: tuple[int, int],
        mpp: tuple[float, float],
        notes: Mapping[str, Any],
        state: State | None = None,
    ) -> None:
        self.store = store
        self.contract = contract
        self.shape_c = shape_c
        self.mpp = mpp
        self.notes = notes
        self._first = 0 if contract.kind == "segment" else 1  # CAMs know no background
        self._channels = len(contract.task.classes) + 1 - self._first
        self._partial = store.with_name(f".{store.name}.partial")
        self._waiting = np.empty((self._channels, 0, shape_c[1]), dtype=np.uint8)
        self._row_c = 0
        if state is None:
            self._begin()
        else:
            self._go_on(state)

    def add(self, rows: CellRows) -> None:
        """The next rows of cells, from top to bottom."""
        evidence = rows.evidence[self._first :]
        if self.contract.kind == "segment":
            evidence = evidence.copy()
            evidence[0][~rows.covered] = 1
        self._waiting = np.concatenate([self._waiting, quantize(evidence)], axis=1)
        while self._waiting.shape[1] >= CHUNK_C:
            self._flush(CHUNK_C)

    def finish(self) -> None:
        """Write what waits, the pyramid and the metadata, and give the store its name.

        Raises:
            ValueError: rows are missing.
        """
        self._flush(self._waiting.shape[1])
        if self._row_c != self.shape_c[0]:
            raise ValueError(f"{self.store}: expected {self.shape_c[0]} rows of cells, got {self._row_c}")
        levels = level_count(max(self.shape_c))
        level = self._base
        for index in range(1, levels):
            level = self._halve(level, index)
        self._write_metadata(levels)
        shutil.rmtree(self.store, ignore_errors=True)
        os.rename(self._partial, self.store)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a later run needs to go on after the rows so far; those written are on disk."""
        return {"map_row": np.array(self._row_c), "map_waiting": self._waiting}

    def discard(self) -> None:
        """Remove what is unfinished; after `finish` there is nothing."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def _begin(self) -> None:
        try:
            self.store.parent.mkdir(parents=True, exist_ok=True)
            self.discard()
            self._root = zarr.open_group(self._partial, mode="w", zarr_format=3)
        except OSError as error:
            raise OutputError(f"{self.store}: expected a folder that can be written to: {error}: give another --output") from error
        self._base = self._create_level(0, self.shape_c)

    def _go_on(self, state: State) -> None:
        try:
            self._root = zarr.open_group(self._partial, mode="r+")
            self._base = zarr.open_array(self._partial / "0", mode="r+")
        except (FileNotFoundError, zarr.errors.BaseZarrError) as error:
            raise OutputError(f"{self.store}: expected the interrupted run's {self._partial.name}, cannot open it: give --fresh") from error
        self._row_c, self._waiting = int(state["map_row"]), state["map_waiting"]

    def _flush(self, count: int) -> None:
        if count:
            self._base[:, self._row_c : self._row_c + count] = self._waiting[:, :count]
            for shard in (self._partial / "0" / "c" / "0" / str(self._row_c // CHUNK_C)).glob("*"):
                sync_file(shard)
            self._row_c += count
            self._waiting = self._waiting[:, count:].copy()

    def _create_level(self, index: int, shape_c: tuple[int, int]) -> zarr.Array[Any]:
        return self._root.create_array(
            str(index),
            shape=(self._channels, *shape_c),
            dtype="uint8",
            chunks=(1, CHUNK_C, CHUNK_C),
            shards=(self._channels, CHUNK_C, _SHARD_WIDTH_C),
            dimension_names=("c", "y", "x"),
        )

    def _halve(self, finer: zarr.Array[Any], index: int) -> zarr.Array[Any]:
        """The next level: means of 2 × 2, a last odd row or column with itself."""
        height, width = ((side + 1) // 2 for side in finer.shape[1:])
        coarser = self._create_level(index, (height, width))
        for y in range(0, height, CHUNK_C):
            rows = np.asarray(finer[:, 2 * y : 2 * (y + CHUNK_C)])
            padded = np.pad(rows, [(0, 0), *((0, side % 2) for side in rows.shape[1:])], mode="edge")
            blocks = padded.reshape(len(padded), padded.shape[1] // 2, 2, padded.shape[2] // 2, 2)
            coarser[:, y : y + CHUNK_C] = ((blocks.sum(axis=(2, 4), dtype=np.uint16) + 2) // 4).astype(np.uint8)
        return coarser

    def _write_metadata(self, levels: int) -> None:
        names = [
            ("background", _GRAY),
            *((tissue.name, "".join(f"{part:02X}" for part in tissue.color)) for tissue in self.contract.task.classes),
        ]
        window: dict[str, Any] = {"start": 0, "end": 255, "min": 0, "max": 255}
        channels: list[dict[str, Any]] = [
            {"label": name, "color": color, "active": True, "window": window} for name, color in names[self._first :]
        ]
        factors = [self.contract.cell_px * 2**index for index in range(levels)]
        self._root.attrs["ome"] = {
            "version": NGFF,
            "multiscales": [multiscale(self.store.name.removesuffix(".ome.zarr"), "cyx", self.mpp, factors, "mean")],
            "omero": {"channels": channels},
        }
        self._root.attrs["histoserve"] = dict(self.notes)


def read_probabilities(store: Path, level: int = 0) -> npt.NDArray[np.uint8]:
    """A level of a finished map, uint8 (channels, height, width)."""
    return np.asarray(zarr.open_array(store / str(level), mode="r")[:]).astype(np.uint8, copy=False)
