"""Annotated images cut into a folder of patches with image-level labels. The masks give the labels and say nothing else; test images are never cut.

Frames: `i` = pixels of the annotated image. Patches start every `stride_px` from the image's top left; one more row and column end flush with
its bottom and right edge where these do not, so that every pixel is in a patch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.contract import TissueTask
from serving.tasks import get_task

from .datasets.annotated import AnnotatedImage
from .datasets.catalog import ALL, DataFormat, read_annotated, read_mask
from .datasets.folds import Split, draw_order, split_images, write_split
from .datasets.image_file import read_rgb
from .datasets.placement import scale_labels, scale_rgb, scaled_shape
from .errors import DataError, RecipeError
from .patches import MIN_SHARE, image_labels, save_mask, write_labels

PROVENANCE_FILE = "provenance.json"


@dataclass(frozen=True)
class PatchesConfig:
    """Cut annotated images into square patches with image-level labels: a class is on the label if it covers more than 1 % of the patch."""

    data: Path
    """The data set's folder."""
    output: Path
    """Folder to make: images/, masks/, labels.csv, split.json, provenance.json."""
    task: str
    """One of the tasks in serving/tasks.py."""
    data_format: DataFormat = "crops"
    """How the data set lies on disk (training/datasets/catalog.py)."""
    split: str = ALL
    """The data set's own split to cut, e.g. train, val or test; all where it has none."""
    patch_px: int = 112
    """Side of a patch in the image's pixels."""
    stride_px: int = 56
    """From one patch to the next, in the image's pixels."""
    tile_px: int | None = None
    """Side of the patches as written: 224 enlarges patches of 112 px twofold, and halves their micrometers per pixel."""
    folds: int = 1
    """Deal the images into so many folds and hold one of them out; 1 holds out none."""
    fold: int = 0
    """The fold to hold out, from 0."""
    max_patches: int | None = None
    """Draw so many of the patches, where there are more."""
    seed: int = 0
    """Of the folds and the draw."""


@dataclass(frozen=True)
class Window:
    """One patch to cut: its place in the image (frame `i`) and its image-level label. An image shorter than a patch gives a shorter one."""

    source: AnnotatedImage
    x_i: int
    y_i: int
    width_px: int
    height_px: int
    labels: tuple[int, ...]

    @property
    def name(self) -> str:
        """File name of the patch."""
        return f"{self.source.image.stem}_x{self.x_i:05d}_y{self.y_i:05d}.png"


@dataclass(frozen=True)
class CutResult:
    """What was written.

    Attributes:
        per_class: patches that hold a class, by its name.
        without_class: patches left out because they hold none.
        not_drawn: patches left out by `max_patches`.
    """

    folder: Path
    patches: int
    per_class: dict[str, int]
    without_class: int
    not_drawn: int
    split: Split


def cut_patches(config: PatchesConfig) -> CutResult:
    """Cut, and write the generic folder format; the folder appears whole or not at all.

    Raises:
        DataError: the data cannot be read, the output is there already, or no patch holds a class.
        RecipeError: sizes or folds that make no sense.
    """
    _check(config)
    task = get_task(config.task)
    annotated = read_annotated(config.data, task, config.data_format, config.split)
    presence: dict[str, tuple[int, ...]] = {}
    windows: dict[str, list[Window]] = {}
    for source in annotated:
        mask = read_mask(source, task)
        presence[source.image.name] = image_labels(mask, len(task.classes))
        windows[source.image.name] = list_windows(source, mask, len(task.classes), config.patch_px, config.stride_px)
    split = split_images(presence, config.folds, config.fold, config.seed)
    cut = [window for name in split.train for window in windows[name]]
    labeled = [window for window in cut if any(window.labels)]
    if not labeled:
        raise DataError(f"{config.data}: expected patches that hold a class of task {task.name!r}, got {len(cut)} without any")
    drawn = draw(labeled, config.max_patches, config.seed)
    counts = {name: sum(window.labels[index] for window in drawn) for index, name in enumerate(task.class_names)}
    result = CutResult(config.output, len(drawn), counts, len(cut) - len(labeled), len(labeled) - len(drawn), split)
    _write(config, task, drawn, result)
    return result


def starts(side_px: int, patch_px: int, stride_px: int) -> list[int]:
    """Where patches start along one side of an image: every stride, and flush with the end."""
    last = max(0, side_px - patch_px)
    return sorted({*range(0, last + 1, stride_px), last})


def list_windows(source: AnnotatedImage, mask: npt.NDArray[np.uint8], num_classes: int, patch_px: int, stride_px: int) -> list[Window]:
    """Every patch of an image, row by row, with its image-level label; those without any class too.

    Args:
        mask: labels 0…C, uint8 (H, W).
    """
    windows = []
    for y_i in starts(mask.shape[0], patch_px, stride_px):
        for x_i in starts(mask.shape[1], patch_px, stride_px):
            part = mask[y_i : y_i + patch_px, x_i : x_i + patch_px]
            windows.append(Window(source, x_i, y_i, part.shape[1], part.shape[0], image_labels(part, num_classes)))
    return windows


def draw(windows: Sequence[Window], max_patches: int | None, seed: int) -> list[Window]:
    """At most `max_patches` of the windows, drawn without regard to class, in the order given."""
    if max_patches is None or len(windows) <= max_patches:
        return list(windows)
    drawn = {window.name for window in sorted(windows, key=lambda window: draw_order(seed, window.name))[:max_patches]}
    return [window for window in windows if window.name in drawn]


def _check(config: PatchesConfig) -> None:
    sizes = {"patch-px": config.patch_px, "stride-px": config.stride_px, "tile-px": config.tile_px, "max-patches": config.max_patches}
    for flag, value in sizes.items():
        if value is not None and value < 1:
            raise RecipeError(f"--{flag}: expected at least 1, got {value}")
    if config.stride_px > config.patch_px:
        raise RecipeError(f"--stride-px: expected at most the patch's {config.patch_px} px, got {config.stride_px}: pixels would be lost")
    if config.output.exists():
        raise DataError(f"{config.output}: expected a folder that does not exist yet, found one: remove it or choose another")


def _write(config: PatchesConfig, task: TissueTask, windows: Sequence[Window], result: CutResult) -> None:
    config.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.output.parent, prefix=f".{config.output.name}.") as scratch:
        folder = Path(scratch) / "patches"
        for name in ("images", "masks"):
            (folder / name).mkdir(parents=True)
        _write_windows(folder, windows, task, config)
        write_labels(folder, task.class_names, [[window.name, *window.labels] for window in windows])
        write_split(folder, result.split)
        (folder / PROVENANCE_FILE).write_text(json.dumps(_provenance(config, task, result), indent=2) + "\n", encoding="utf-8")
        os.rename(folder, config.output)


def _write_windows(folder: Path, windows: Sequence[Window], task: TissueTask, config: PatchesConfig) -> None:
    source: AnnotatedImage | None = None
    for window in windows:  # in the order of their images: each is read once
        if window.source != source:
            source = window.source
            rgb, mask = read_rgb(source.image), read_mask(source, task)
        place = np.s_[window.y_i : window.y_i + window.height_px, window.x_i : window.x_i + window.width_px]
        shape = scaled_shape((window.height_px, window.width_px), config.patch_px, config.tile_px or config.patch_px)
        Image.fromarray(scale_rgb(rgb[place], shape)).save(folder / "images" / window.name, compress_level=1)
        save_mask(folder / "masks" / window.name, scale_labels(mask[place], shape), [tissue.color for tissue in task.classes])


def _provenance(config: PatchesConfig, task: TissueTask, result: CutResult) -> dict[str, object]:
    tile_px = config.tile_px or config.patch_px
    return {
        "histoserve": importlib.metadata.version("histoserve"),
        "data": config.data.name,  # its name alone: where it lay is of no use on another machine
        "format": config.data_format,
        "split": config.split,
        "task": task.name,
        "patch_px": config.patch_px,
        "stride_px": config.stride_px,
        "tile_px": tile_px,
        "mpp": task.mpp * config.patch_px / tile_px,
        "min_share": MIN_SHARE,
        "folds": config.folds,
        "fold": config.fold,
        "max_patches": config.max_patches,
        "seed": config.seed,
        "patches": result.patches,
        "patches_per_class": result.per_class,
        "patches_without_class": result.without_class,
        "patches_not_drawn": result.not_drawn,
        "sources": list(result.split.train),
        "held_out": list(result.split.test),
    }
