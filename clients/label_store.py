"""A finished store's label, level by level and strip by strip, of either OME-NGFF version. Knows no task and no slide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.errors

from . import zarr_pipeline  # noqa: F401
from .errors import OutputError


@dataclass(frozen=True)
class StoredLevel:
    """One level of the label's pyramid; its pixel i is the mask's pixel i·factor and stands for [i·factor, (i + 1)·factor).

    Attributes:
        factor: mask pixels per pixel.
        pixels: uint8 (height, width), on disk.
    """

    index: int
    factor: int
    pixels: zarr.Array[Any]

    @property
    def size_px(self) -> int:
        return int(np.prod(self.pixels.shape))

    def strips(self, rows: int) -> Iterator[npt.NDArray[np.uint8]]:
        """The level from top to bottom, `rows` at a time."""
        for top in range(0, self.pixels.shape[0], rows):
            yield np.asarray(self.pixels[top : top + rows]).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class StoredLabel:
    """The label of a store.

    Attributes:
        name: of the label: the task's.
        version: of OME-NGFF, "0.4" or "0.5".
        mpp: micrometers per pixel of level 0, (x, y).
        levels: finest first.
    """

    name: str
    version: str
    mpp: tuple[float, float]
    levels: tuple[StoredLevel, ...]


def open_label(store: Path) -> StoredLabel:
    """Open the first label of a store that `histoserve segment` finished.

    Raises:
        OutputError: there is none, or it is not one of ours.
    """
    try:
        name = ngff_attributes(zarr.open_group(store / "labels", mode="r"))[0]["labels"][0]
        group = zarr.open_group(store / "labels" / name, mode="r")
        attributes, version = ngff_attributes(group)
        scales: list[tuple[float, float]] = []
        arrays: list[zarr.Array[Any]] = []
        for dataset in attributes["multiscales"][0]["datasets"]:
            scale_y, scale_x = dataset["coordinateTransformations"][0]["scale"][-2:]
            scales.append((float(scale_x), float(scale_y)))
            arrays.append(zarr.open_array(store / "labels" / name / dataset["path"], mode="r"))
    except (FileNotFoundError, KeyError, IndexError, TypeError, ValueError, zarr.errors.BaseZarrError) as error:
        raise OutputError(
            f"{store}: expected an OME-Zarr with a label that `histoserve segment` wrote, cannot read one: {error!r}"
        ) from error
    levels = (
        StoredLevel(index, round(scale[0] / scales[0][0]), array) for index, (scale, array) in enumerate(zip(scales, arrays, strict=True))
    )
    return StoredLabel(name, version, scales[0], tuple(levels))


def ngff_attributes(group: zarr.Group) -> tuple[dict[str, Any], str]:
    """A group's OME-NGFF metadata and version: under "ome" in 0.5, bare in 0.4."""
    attributes: dict[str, Any] = dict(group.attrs)
    if "ome" in attributes:
        return attributes["ome"], str(attributes["ome"]["version"])
    return attributes, "0.4"
