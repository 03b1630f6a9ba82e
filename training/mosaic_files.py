"""Synthesized images on disk (`mosaic`): drawn once, reused, gone on with where a write was interrupted. Opens no mask but those that it wrote."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving.contract import TissueTask

from .datasets.image_file import read_indices, read_rgb
from .datasets.placement import scale_rgb, scaled_shape
from .errors import DataError
from .mosaic import Bytes, Images, MosaicOptions, class_shares, draw_mosaic, mosaic_px
from .patch_dataset import PatchSample
from .pseudomask import write_palette_png


class DecodedImages:
    """Images of a class, decoded once and kept while they fit into `cache_bytes`; the others are read each time."""

    def __init__(self, paths: Sequence[Path], task: TissueTask, patch_px: int | None, cache_bytes: int) -> None:
        self.paths = paths
        self.task = task
        self.patch_px = patch_px
        self._free_bytes = cache_bytes
        self._kept: dict[int, Bytes] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int, /) -> Bytes:
        if index in self._kept:
            return self._kept[index]
        rgb = read_rgb(self.paths[index])
        if self.patch_px is not None:
            rgb = scale_rgb(rgb, scaled_shape((rgb.shape[0], rgb.shape[1]), self.patch_px, self.task.tile_px))
        if rgb.nbytes <= self._free_bytes:
            self._free_bytes -= rgb.nbytes
            self._kept[index] = rgb
        return rgb


def write_mosaics(
    samples: Sequence[PatchSample],
    task: TissueTask,
    folder: Path,
    options: MosaicOptions,
    patch_px: int | None = None,
    cache_mb: int = 1024,
) -> list[PatchSample]:
    """Write `options.count` synthesized images and return them with their masks as targets; their labels are the classes in their masks.

    Written once: `images/NNNNN.png`, `masks/NNNNN.png` (palette) and, last, `provenance.json`. Where these are, nothing is drawn again; an
    interrupted write goes on and leaves the same bytes. The images are tiles: a `PatchDataset` of them takes no patch_px.

    Args:
        samples: of the training set; those with one class on the label are used.
        folder: made if absent.
        patch_px: side of the samples' patches that fill a tile, as in `PatchDataset`; None: pixels are not scaled.
        cache_mb: decoded images kept in memory.

    Raises:
        RecipeError, DataError: as `draw_mosaic`; or the folder holds mosaics of other options or images.
    """
    mosaic_px(task, options)
    paths = _single_label_images(samples, task)
    plan = _plan(paths, task, options, patch_px)
    done, begun = folder / "provenance.json", folder / "plan.json"
    if done.exists():
        return _reuse(folder, _read_same(done, plan))
    _begin(folder, begun, plan)
    cache_bytes = cache_mb * 2**20 // len(paths)
    images = [DecodedImages(of_class, task, patch_px, cache_bytes) for of_class in paths]
    pixels = np.zeros(len(paths) + 1, np.int64)
    presence: list[str] = []
    for index in range(options.count):
        labels = _write_one(index, images, task, folder, options)
        counts = np.bincount(labels.ravel(), minlength=len(pixels))
        pixels += counts
        presence.append("".join("01"[int(count > 0)] for count in counts[1:]))
        if (index + 1) % 1000 == 0:
            print(f"mosaics  {index + 1}/{options.count}", file=sys.stderr, flush=True)
    shares = dict(zip(("background", *task.class_names), (pixels / pixels.sum()).tolist(), strict=True))
    _write_json(done, plan | {"pixel_shares": shares, "labels": " ".join(presence)})
    begun.unlink(missing_ok=True)
    return _reuse(folder, {"labels": " ".join(presence)})


def _single_label_images(samples: Sequence[PatchSample], task: TissueTask) -> list[list[Path]]:
    """The images whose label has exactly one class, by class."""
    paths: list[list[Path]] = [[] for _ in task.classes]
    for sample in samples:
        if len(sample.labels) != len(paths):
            raise DataError(f"{sample.image}: expected a label of {len(paths)} classes for task {task.name!r}, got {len(sample.labels)}")
        if sum(sample.labels) == 1:
            paths[sample.labels.index(1)].append(sample.image)
    class_shares([len(of_class) for of_class in paths], task, 0)
    return paths


def _plan(paths: Sequence[Sequence[Path]], task: TissueTask, options: MosaicOptions, patch_px: int | None) -> dict[str, Any]:
    """All that the bytes of the mosaics depend on, as JSON gives it back. Images count by name and size: reading all takes too long."""
    digest = hashlib.sha256()
    for number, of_class in enumerate(paths):
        for path in of_class:
            size = path.stat().st_size if path.exists() else None
            digest.update(f"{number}/{path.parent.name}/{path.name}/{size}\n".encode())
    rule = None if task.background is None else dataclasses.asdict(task.background)
    about = {"task": task.name, "classes": task.class_names, "tile_px": task.tile_px, "background": rule, "patch_px": patch_px}
    plan: dict[str, Any] = json.loads(json.dumps(about | {"images": digest.hexdigest()} | dataclasses.asdict(options)))
    return plan


def _read_same(path: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """What was written, if it was of the same plan."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: expected JSON ({error}): remove the folder {path.parent}, or choose another") from error
    differing = [f"{key} is {found.get(key)!r} there, {value!r} wanted" for key, value in plan.items() if found.get(key) != value]
    if differing:
        raise DataError(
            f"{path.parent}: expected mosaics of these options and images, found others: {'; '.join(differing)}: "
            "remove the folder, or choose another"
        )
    return found


def _begin(folder: Path, begun: Path, plan: Mapping[str, Any]) -> None:
    """Make the folder, or go on in it: what it was begun with is there from the first moment, so that no two plans mix."""
    if begun.exists():
        _read_same(begun, plan)
        return
    if (folder / "images").exists() or (folder / "masks").exists():
        raise DataError(
            f"{folder}: expected no images/ and masks/, or mosaics begun here ({begun.name}), found others: choose another folder"
        )
    _write_json(begun, plan)


def _write_one(index: int, images: Sequence[Images], task: TissueTask, folder: Path, options: MosaicOptions) -> Bytes:
    """Draw one mosaic, if it is not there yet; its labels."""
    image, mask = _files(folder, index)
    if image.exists() and mask.exists():
        return read_indices(mask)
    rgb, labels = draw_mosaic(images, task, options, np.random.default_rng((options.seed, index)))
    _whole(image, lambda part: Image.fromarray(rgb).save(part))
    _whole(mask, lambda part: write_palette_png(part, labels, task))
    return labels


def _reuse(folder: Path, found: Mapping[str, Any]) -> list[PatchSample]:
    samples = []
    for index, presence in enumerate(str(found["labels"]).split()):
        image, mask = _files(folder, index)
        if not image.exists() or not mask.exists():
            raise DataError(f"{folder}: expected {image.name} in images/ and masks/, found no such file: remove the folder to draw again")
        samples.append(PatchSample(image, tuple(int(bit) for bit in presence), mask))
    return samples


def _files(folder: Path, index: int) -> tuple[Path, Path]:
    return folder / "images" / f"{index:05d}.png", folder / "masks" / f"{index:05d}.png"


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _whole(path, lambda part: part.write_text(json.dumps(content, indent=2) + "\n"))


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    write(part)
    os.replace(part, path)
