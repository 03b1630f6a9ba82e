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

OTHER_NUMBER = 4


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


def enter(repository: Path, number: int, entry: str = tiny.ENTRY) -> None:
    """What export does last: the entry becomes a copy of that release's frozen ensemble, in one step."""
    release = of_release(entry.replace("tiny_", "tiny_r1_"), number)
    partial = repository / f".{FILE_NAME}"
    partial.write_text((repository / release / FILE_NAME).read_text().replace(f'name: "{release}"', f'name: "{entry}"', 1))
    os.replace(partial, repository / entry / FILE_NAME)


def write_other_model(repository: Path) -> str:
    """A model of its own beside the tiny one, its entries last; returns the name of that of tiles. Its values are release `OTHER_NUMBER`'s."""
    write_release(repository, OTHER_NUMBER)
    for folder in sorted(repository.glob(f"tiny_r{OTHER_NUMBER}_*")):
        text = (folder / FILE_NAME).read_text()
        (folder / FILE_NAME).write_text(text.replace(f"tiny_r{OTHER_NUMBER}_", "other_r1_"))
        folder.rename(repository / folder.name.replace(f"tiny_r{OTHER_NUMBER}_", "other_r1_"))
    for folder in sorted(repository.glob(f"{tiny.ENTRY}*")):
        entry, release = folder.name.replace("tiny_", "other_"), folder.name.replace("tiny_", "other_r1_")
        (repository / entry / "1").mkdir(parents=True)
        text = (repository / release / FILE_NAME).read_text().replace(f'name: "{release}"', f'name: "{entry}"', 1)
        (repository / entry / FILE_NAME).write_text(text)
    return tiny.ENTRY.replace("tiny_", "other_")


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
