"""Further releases of the tiny model, whose channel 0 tells their number, and the move of the callers' entry to one of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from serving.canary import CANARY_FILE
from serving.contract import LABELS, PROBABILITIES
from serving.modelconfig import FILE_NAME, ONNX_FILE

from . import tiny_release as tiny


def of_release(name: str, number: int) -> str:
    """The name of a model of release 1 in another release."""
    return name.replace("tiny_r1_", f"tiny_r{number}_")


def write_release(repository: Path, number: int) -> None:
    """Release `number` ≥ 2 beside release 1; no entry names it."""
    for folder in sorted(repository.glob("tiny_r1_*")):
        target = repository / of_release(folder.name, number)
        shutil.copytree(folder, target)
        text = (target / FILE_NAME).read_text()
        (target / FILE_NAME).write_text(text.replace("tiny_r1_", f"tiny_r{number}_"))
    _renumber(repository / of_release(tiny.NET, number) / "1" / ONNX_FILE, number)
    tiles = tiny.random_tiles(2, seed=7)
    levels = np.rint(probabilities(tiles, number) * np.float32(0.5)).astype(np.uint8)
    path = repository / of_release(tiny.RELEASE, number) / CANARY_FILE
    np.savez_compressed(path, TILE=tiles, **{LABELS: tiny.expected(tiles)[LABELS], PROBABILITIES: levels})


def enter(repository: Path, number: int) -> None:
    """What export does last: the entry becomes a copy of that release's frozen ensemble, in one step."""
    release = of_release(tiny.RELEASE, number)
    partial = repository / f".{FILE_NAME}"
    partial.write_text((repository / release / FILE_NAME).read_text().replace(f'name: "{release}"', f'name: "{tiny.ENTRY}"', 1))
    os.replace(partial, repository / tiny.ENTRY / FILE_NAME)


def probabilities(tiles: tiny.Tiles, number: int) -> tiny.Tiles:
    """Of the release's network: channel 0 is (number - 1) × the red, everything else as release 1 has it."""
    levels = tiny.net_probabilities(tiles)
    red = tiles.reshape(len(tiles), *[tiny.TILE_PX // tiny.CELL_PX, tiny.CELL_PX] * 2, 3)[..., 0].mean(axis=(2, 4)).astype(np.float32)
    levels[:, 0] = np.rint(red * np.float32(0.1 * (number - 1))).astype(np.uint8)
    return levels


def _renumber(path: Path, number: int) -> None:
    model = onnx.load(path)
    (zero,) = (value for value in model.graph.initializer if value.name == "zero")
    zero.CopyFrom(numpy_helper.from_array(np.array(0.1 * (number - 1), np.float32), "zero"))
    onnx.save(model, path)
