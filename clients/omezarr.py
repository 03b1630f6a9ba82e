"""A slide's mask as OME-Zarr (OME-NGFF 0.5): written strip by strip, read back. The only module that imports zarr.

    S.ome.zarr/            multiscales: a small RGB image of the slide, axes c, y, x
    S.ome.zarr/labels/<t>  multiscales + image-label: 0 = background, 1…C, with as many levels as the image

Scale and half-pixel rule: FRAMES.md.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.errors

from serving.contract import BACKGROUND_INDEX, TissueTask

from . import zarr_pipeline  # noqa: F401
from .errors import OutputError
from .journal import sync_folder
from .unfinished import list_files, remove_all_but, sync_tree, unfinished_path

CHUNK_PX = 512
STRIP_PX = 2 * CHUNK_PX  # a strip is one row of shards: one writer a shard
SHARD_WIDTH_PX = 8 * CHUNK_PX
SMALLEST_LEVEL_PX = 512
NGFF = "0.5"


@dataclass(frozen=True)
class LabelImage:
    """A finished label.

    Attributes:
        labels: uint8 (H, W), 0 = background, 1…C.
        mpp: micrometers per pixel, (x, y).
    """

    labels: npt.NDArray[np.uint8]
    class_names: tuple[str, ...]
    mpp: tuple[float, float]


class LabelWriter:
    """Writes one store under a name of its own; it gets its true name from `publish`. What was written outlives errors and kills.

    Args:
        shape: (height_m, width_m) of the label.
        mpp: micrometers per label pixel, (x, y).
        notes: provenance, JSON-ready; stored as the label's attribute "histoserve".
        kept: files of the unfinished store, of strips that need not be written again; whatever else an earlier run left is removed.

    Attributes:
        unfinished: where the store is before `publish`.
        files: of the strips that are on disk: path within the store → bytes.

    Raises:
        OutputError: its folder cannot be written.
    """

    def __init__(
        self,
        store: Path,
        task: TissueTask,
        shape: tuple[int, int],
        mpp: tuple[float, float],
        notes: Mapping[str, Any],
        kept: Mapping[str, int] | None = None,
    ) -> None:
        self.store = store
        self.task = task
        self.shape = shape
        self.mpp = mpp
        self.notes = notes
        self.unfinished = unfinished_path(store)
        self.files = dict(kept or {})
        self._levels = level_count(max(shape))
        with _storing(store):
            store.parent.mkdir(parents=True, exist_ok=True)
            remove_all_but(self.unfinished, self.files)
            self._root = zarr.open_group(self.unfinished, mode="a", zarr_format=3)
            self._label = self._root.create_group(f"labels/{task.name}")
            self._base = self._create_level(0, shape)
            sync_tree(self.unfinished)

    def write(self, y_m: int, labels: npt.NDArray[np.uint8]) -> None:
        """Write a strip of whole rows; `y_m` is a multiple of `STRIP_PX`. It is on disk when this returns, and among `files`.

        Raises:
            OutputError: the disk is full, or fails.
        """
        chunks = self.unfinished / "labels" / self.task.name / "0" / "c"
        shards = chunks / str(y_m // STRIP_PX)
        with _storing(self.store):
            self._base[y_m : y_m + len(labels)] = labels
            if shards.is_dir():  # shards of nothing but background are not written
                sync_tree(shards)
                sync_folder(chunks)
                sync_folder(chunks.parent)
                self.files |= list_files(self.unfinished, shards)

    def finish(self, thumbnail: npt.NDArray[np.uint8], thumbnail_factor: int) -> None:
        """Add the pyramid, the slide's image and the metadata: `unfinished` is then a whole store.

        Args:
            thumbnail: uint8 RGB of the slide, reduced by `thumbnail_factor` against the label.

        Raises:
            OutputError: the disk is full, or fails.
        """
        with _storing(self.store):
            level = self._base
            for index in range(1, self._levels):
                level = self._halve(level, index)
            self._write_image(thumbnail, thumbnail_factor)
            self._write_metadata(thumbnail_factor)
            sync_tree(self.unfinished)

    def publish(self) -> None:
        """Give the finished store its name, in the place of one that has it."""
        aside = self.store.with_name(f".{self.store.name}.replaced")
        with _storing(self.store):
            shutil.rmtree(aside, ignore_errors=True)
            if self.store.exists():
                os.rename(self.store, aside)
            os.rename(self.unfinished, self.store)
            sync_folder(self.store.parent)
        shutil.rmtree(aside, ignore_errors=True)

    def _create_level(self, index: int, shape: tuple[int, int]) -> zarr.Array[Any]:
        return self._label.create_array(
            str(index),
            shape=shape,
            dtype="uint8",
            chunks=(CHUNK_PX, CHUNK_PX),
            shards=(STRIP_PX, SHARD_WIDTH_PX),
            fill_value=BACKGROUND_INDEX,
            dimension_names=("y", "x"),
        )

    def _halve(self, finer: zarr.Array[Any], index: int) -> zarr.Array[Any]:
        """The next level by nearest neighbor: only labels that exist."""
        height, width = ((side + 1) // 2 for side in finer.shape)
        coarser = self._create_level(index, (height, width))
        for y in range(0, height, STRIP_PX):
            coarser[y : y + STRIP_PX] = np.asarray(finer[2 * y : 2 * (y + STRIP_PX)])[::2, ::2]
        return coarser

    def _write_image(self, rgb: npt.NDArray[np.uint8], factor: int) -> None:
        for index in range(self._levels):
            shape = (3, *rgb.shape[:2])
            array = self._root.create_array(
                str(index), shape=shape, dtype="uint8", chunks=(3, CHUNK_PX, CHUNK_PX), dimension_names=("c", "y", "x")
            )
            array[:] = np.moveaxis(rgb, -1, 0)
            rgb = _mean_2x2(rgb)

    def _write_metadata(self, thumbnail_factor: int) -> None:
        name = self.task.name
        labels = zarr.open_group(self.unfinished / "labels", mode="a")
        labels.attrs["ome"] = {"version": NGFF, "labels": [name]}
        colors = [{"label-value": BACKGROUND_INDEX, "rgba": [0, 0, 0, 0]}]
        properties: list[dict[str, Any]] = [{"label-value": BACKGROUND_INDEX, "class": "background"}]
        for index, tissue in enumerate(self.task.classes, start=1):
            colors.append({"label-value": index, "rgba": [*tissue.color, 255]})
            properties.append({"label-value": index, "class": tissue.name})
        label_image: dict[str, Any] = {"colors": colors, "properties": properties, "source": {"image": "../../"}}
        factors = [2**index for index in range(self._levels)]
        self._label.attrs["ome"] = {
            "version": NGFF,
            "multiscales": [multiscale(name, "yx", self.mpp, factors, "nearest")],
            "image-label": label_image,
        }
        self._label.attrs["histoserve"] = dict(self.notes)
        slide_factors = [thumbnail_factor * factor for factor in factors]
        self._root.attrs["ome"] = {
            "version": NGFF,
            "multiscales": [multiscale(self.store.name.removesuffix(".ome.zarr"), "cyx", self.mpp, slide_factors, "mean")],
            "omero": {"channels": [_channel(color) for color in ("red", "green", "blue")]},
        }


def level_count(side_px: int) -> int:
    """Levels of a pyramid that halves until its longer side is at most 512."""
    count = 1
    while side_px > SMALLEST_LEVEL_PX:
        side_px = (side_px + 1) // 2
        count += 1
    return count


def multiscale(name: str, axes: str, mpp: tuple[float, float], factors: list[int], method: str) -> dict[str, Any]:
    """NGFF `multiscales` entry. Coordinates name pixel centers, so a level of factor f starts (f − 1)/2 base pixels later."""
    space = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in axes if axis != "c"]
    channel = [{"name": "c", "type": "channel"}] if "c" in axes else []
    datasets = []
    for index, factor in enumerate(factors):
        scale = [1.0] * len(channel) + [mpp[1] * factor, mpp[0] * factor]
        translation = [0.0] * len(channel) + [mpp[1] * (factor - 1) / 2, mpp[0] * (factor - 1) / 2]
        steps = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]
        datasets.append({"path": str(index), "coordinateTransformations": steps})
    return {"name": name, "axes": [*channel, *space], "datasets": datasets, "type": method}


def read_label(store: Path) -> LabelImage:
    """Read a finished label at full resolution.

    Raises:
        OutputError: there is no store, or it is not one of ours.
    """
    if not store.is_dir():
        raise OutputError(f"{store}: expected a mask that `histoserve segment` wrote (S.ome.zarr), found no such folder")
    try:
        labels = zarr.open_group(store / "labels", mode="r")
        name = _ome(labels)["labels"][0]
        group = zarr.open_group(store / "labels" / name, mode="r")
        ome = _ome(group)
        base = ome["multiscales"][0]["datasets"][0]
        classes = {entry["label-value"]: entry["class"] for entry in ome["image-label"]["properties"]}
        scale_y, scale_x = base["coordinateTransformations"][0]["scale"]
        pixels = np.asarray(zarr.open_array(store / "labels" / name / base["path"], mode="r")[:])
    except (FileNotFoundError, KeyError, IndexError, TypeError, ValueError, zarr.errors.BaseZarrError) as error:
        raise OutputError(f"{store}: expected an OME-Zarr {NGFF} with a label image of classes, cannot read one: {error!r}") from error
    names = tuple(classes[value] for value in sorted(classes) if value != BACKGROUND_INDEX)
    return LabelImage(pixels.astype(np.uint8), names, (float(scale_x), float(scale_y)))


def read_notes(store: Path) -> dict[str, Any]:
    """The provenance that a finished store carries: what `LabelWriter` got as `notes`.

    Raises:
        OutputError: there is no store, or it is not one of ours.
    """
    try:
        labels = zarr.open_group(store / "labels", mode="r")
        notes: Any = zarr.open_group(store / "labels" / _ome(labels)["labels"][0], mode="r").attrs["histoserve"]
        return dict(notes)
    except (OSError, KeyError, IndexError, TypeError, ValueError, zarr.errors.BaseZarrError) as error:
        raise OutputError(f"{store}: expected a mask that `histoserve segment` wrote, cannot read its notes: {error!r}") from error


@contextmanager
def _storing(store: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{store}: expected a folder that can be written to: {error}: free some room or give another --output") from error


def _ome(group: zarr.Group) -> Any:
    return group.attrs.get("ome", group.attrs)  # bare in a store that was converted to NGFF 0.4


def _channel(color: str) -> dict[str, Any]:
    hexes = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
    return {"label": color, "color": hexes[color], "active": True, "window": {"start": 0, "end": 255, "min": 0, "max": 255}}


def _mean_2x2(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Halve, rounding sides up; an odd last row or column is averaged with itself."""
    padded = np.pad(rgb, [(0, side % 2) for side in rgb.shape[:2]] + [(0, 0)], mode="edge")
    rows = padded[0::2].astype(np.uint16) + padded[1::2]
    mean: npt.NDArray[np.uint8] = ((rows[:, 0::2] + rows[:, 1::2] + np.uint16(2)) >> 2).astype(np.uint8)
    return mean
