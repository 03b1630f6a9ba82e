"""OME-Zarr images as slides, OME-NGFF 0.4 and 0.5: properties from the metadata, tiles from the chunks. Knows no other format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.errors

from . import zarr_pipeline  # noqa: F401
from .errors import SlideError
from .label_store import ngff_attributes
from .openslide_reader import Level, Properties, Rgb

_UM_PER_UNIT = {"angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_SMALLEST_TILE_PX = 512
_CHANNELS = 3


@dataclass(frozen=True)
class _Axes:
    """Where the axes are that matter; of others (t, z) the first entry is read.

    Attributes:
        c: the color axis.
    """

    count: int
    c: int
    y: int
    x: int
    units: tuple[str | None, str | None]  # of y and x


class ZarrReader:
    """The first multiscale image of a store; an RGB image of uint8. Safe to call from many threads.

    Pixel i of a level covers [i·d, (i + 1)·d) of level 0, d = the ratio of the scales; translations are not looked at.

    Raises:
        SlideError: no OME-Zarr image, or not one in RGB.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            group = zarr.open_group(path, mode="r")
            if "bioformats2raw.layout" in ngff_attributes(group)[0]:
                group = zarr.open_group(path / "0", mode="r")  # a collection: the slide comes first, then label and macro
            multiscale = ngff_attributes(group)[0]["multiscales"][0]
            self._axes = _find_axes(path, multiscale["axes"])
            datasets = multiscale["datasets"]
            self._arrays: list[zarr.Array[Any]] = [_array(path, group, dataset["path"]) for dataset in datasets]
            common = _scale(multiscale.get("coordinateTransformations", ()), self._axes.count)
            scales = [_scale(dataset["coordinateTransformations"], self._axes.count) * common for dataset in datasets]
        except (OSError, KeyError, IndexError, TypeError, ValueError, zarr.errors.BaseZarrError) as error:
            raise SlideError(f"{path}: expected a slide, or an OME-Zarr image of NGFF 0.4 or 0.5, cannot read one: {error!r}") from error
        self._check_color()
        sides = [(scale[self._axes.y], scale[self._axes.x]) for scale in scales]
        levels = tuple(
            Level(array.shape[self._axes.x], array.shape[self._axes.y], float(np.mean(np.divide(side, sides[0]))))
            for array, side in zip(self._arrays, sides, strict=True)
        )
        mpp = _mpp(sides[0], self._axes.units)
        self.properties = Properties("ome-zarr", levels, mpp, (0, 0, levels[0].width, levels[0].height), has_icc=False)

    def tile_size(self, level: int) -> tuple[int, int]:
        """Width and height of the chunks; of small ones as many as make 512 pixels."""
        width, height = (self._arrays[level].chunks[axis] for axis in (self._axes.x, self._axes.y))
        return width * -(-_SMALLEST_TILE_PX // width), height * -(-_SMALLEST_TILE_PX // height)

    def read_tile(self, level: int, column: int, row: int) -> Rgb:
        """uint8 RGB (height, width, 3), cropped at the level's edge.

        Raises:
            SlideError: a chunk is damaged.
        """
        width, height = self.tile_size(level)
        place: list[int | slice] = [0] * self._axes.count
        place[self._axes.c] = slice(None)
        place[self._axes.y] = slice(row * height, (row + 1) * height)
        place[self._axes.x] = slice(column * width, (column + 1) * width)
        try:
            pixels = np.asarray(self._arrays[level][tuple(place)])
        except Exception as error:  # each codec has errors of its own
            raise SlideError(f"{self._path}: damaged at level {level}, tile ({column}, {row}): {error}") from error
        order = sorted((self._axes.y, self._axes.x, self._axes.c))
        yxc = pixels.transpose([order.index(axis) for axis in (self._axes.y, self._axes.x, self._axes.c)])
        return np.ascontiguousarray(yxc).astype(np.uint8, copy=False)

    def close(self) -> None:
        """Nothing is held open."""

    def _check_color(self) -> None:
        array = self._arrays[0]
        if array.dtype != np.uint8 or array.shape[self._axes.c] != _CHANNELS:
            told = f"{array.shape[self._axes.c]} channels of {array.dtype}"
            raise SlideError(
                f"{self._path}: expected an RGB image (3 channels of uint8), got {told}: brightfield slides alone can be segmented"
            )


def is_zarr(path: Path) -> bool:
    """Whether a path is a Zarr store: a folder that says so itself."""
    return path.is_dir() and any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def _array(path: Path, group: zarr.Group, name: str) -> zarr.Array[Any]:
    member = group[name]
    if not isinstance(member, zarr.Array):
        raise TypeError(f"{name} is no array")
    return member


def _find_axes(path: Path, axes: Sequence[Mapping[str, Any]]) -> _Axes:
    names = [str(axis["name"]) for axis in axes]
    if not {"c", "y", "x"} <= set(names):
        raise SlideError(f"{path}: expected an image with the axes c, y and x, got {', '.join(names)}")
    y, x = names.index("y"), names.index("x")
    return _Axes(len(names), names.index("c"), y, x, (axes[y].get("unit"), axes[x].get("unit")))


def _scale(transformations: Sequence[Mapping[str, Any]], axes: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    factors = np.ones(axes)
    for step in transformations:
        if step["type"] == "scale":
            factors = factors * np.array(step["scale"], dtype=float)
    return factors


def _mpp(side: tuple[float, float], units: tuple[str | None, str | None]) -> tuple[float, float] | None:
    """(x, y); None where the image has no unit of length that we know."""
    factors = [_UM_PER_UNIT.get(unit or "") for unit in units]
    if factors[0] is None or factors[1] is None:
        return None
    return float(side[1] * factors[1]), float(side[0] * factors[0])
