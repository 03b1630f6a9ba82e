"""An image in memory through a model, by the code that segments slides: same tiles, same blending, same rules. Knows no file and no truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clients.evidence import DEFAULT_GATE, Gate
from clients.mirror import read_mirrored
from clients.pipeline import Plan, TileModel, cell_rows, label_strips
from clients.tiling import TileGrid, make_grid
from training.datasets.placement import scale_rgb

OVERLAP = 0.5  # of a tile: sliding window with half the tile as stride
_BATCH = 32
_IN_FLIGHT = 2

Rgb = npt.NDArray[np.uint8]
GateMaker = Callable[[TileGrid], Gate]


def predict_labels(
    rgb: Rgb, model: TileModel, image_mpp: float, overlap: float = OVERLAP, make_gate: GateMaker = lambda grid: DEFAULT_GATE
) -> npt.NDArray[np.uint8]:
    """Labels 0…C of an image, uint8 (H, W).

    Args:
        rgb: uint8 (H, W, 3); brought to the model's scale where it differs by more than 1 %, and the labels back (nearest).
        image_mpp: its micrometers per pixel.
        make_gate: the classes that count on a tile of this image, for models that give CAMs.
    """
    plan = make_image_plan(to_model_scale(rgb, image_mpp, model.contract.task.mpp), model, overlap)
    plan = dataclasses.replace(plan, gate=make_gate(plan.grid))
    labels = np.concatenate([strip for _, strip in label_strips(plan, model, _no_progress)])
    return _nearest(labels, (rgb.shape[1], rgb.shape[0]))


def predict_evidence(rgb: Rgb, model: TileModel, image_mpp: float, overlap: float = OVERLAP) -> npt.NDArray[np.float32]:
    """Blended evidence per cell, float32 (C + 1, h, w), 0…1: what heat maps show. Cells that reach over the edge are part of it."""
    plan = make_image_plan(to_model_scale(rgb, image_mpp, model.contract.task.mpp), model, overlap)
    return np.concatenate([rows.evidence for rows in cell_rows(plan, model, _no_progress)], axis=1)


def predict_tiles(rgb: Rgb, model: TileModel, image_mpp: float) -> Iterator[tuple[tuple[slice, slice], dict[str, npt.NDArray[Any]]]]:
    """Every whole tile of the image at stride 1 tile: its place in the image at the model's scale, and the model's answer."""
    scaled = to_model_scale(rgb, image_mpp, model.contract.task.mpp)
    tile_px = model.contract.task.tile_px
    corners = [(y, x) for y in range(0, scaled.shape[0] - tile_px + 1, tile_px) for x in range(0, scaled.shape[1] - tile_px + 1, tile_px)]
    places = [(slice(y, y + tile_px), slice(x, x + tile_px)) for y, x in corners]
    batches = ((place, scaled[place][None]) for place in places)
    for place, outputs in model.stream(batches, _IN_FLIGHT):
        yield place, {name: values[0] for name, values in outputs.items()}


def to_model_scale(rgb: Rgb, image_mpp: float, model_mpp: float) -> Rgb:
    """The image at the model's scale, scaled as training patches are."""
    width, height = _model_size(rgb, image_mpp, model_mpp)
    return scale_rgb(rgb, (height, width))


def to_label_scale(labels: npt.NDArray[np.uint8], image_mpp: float, model_mpp: float) -> npt.NDArray[np.uint8]:
    """Labels of an image at the model's scale (nearest): what `to_model_scale` is to its pixels."""
    return _nearest(labels, _model_size(labels, image_mpp, model_mpp))


def make_image_plan(rgb: Rgb, model: TileModel, overlap: float) -> Plan:
    """Every tile of the image."""
    height, width = rgb.shape[:2]
    task = model.contract.task
    grid = make_grid(width, height, task.tile_px, model.contract.cell_px, overlap)

    def read(x0: int, y0: int, x1: int, y1: int) -> Rgb:
        return rgb[y0:y1, x0:x1]

    def read_tile(x_m: int, y_m: int) -> Rgb:
        return read_mirrored(read, (width, height), x_m, y_m, task.tile_px, task.tile_px)

    places = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    return Plan(read_tile, width, height, grid, places, _BATCH, _IN_FLIGHT, strip_px=grid.height_c * grid.cell_px)


def _model_size(pixels: npt.NDArray[np.uint8], image_mpp: float, model_mpp: float) -> tuple[int, int]:
    """(width, height); within 1 % of the model's scale pixels are used as they are."""
    factor = image_mpp / model_mpp
    if abs(factor - 1) <= 0.01:
        factor = 1.0
    return max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))


def _nearest(labels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    if (labels.shape[1], labels.shape[0]) == size:
        return labels
    return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def _no_progress(done: int, total: int) -> None:
    """An image is quick; the command shows progress by image."""
