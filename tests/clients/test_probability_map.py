"""The probability map: values, place, pyramid, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image

from clients.blend import CellRows
from clients.errors import OutputError
from clients.probability_map import ProbabilityWriter, read_probabilities
from serving.contract import Kind

from .painted import CELL_PX, contract

HEIGHT_C, WIDTH_C = 1100, 61
EVIDENCE = np.random.default_rng(0).random((5, HEIGHT_C, WIDTH_C)).astype(np.float32)
COVERED = np.random.default_rng(1).random((HEIGHT_C, WIDTH_C)) < 0.9


def rows(start_c: int, stop_c: int) -> CellRows:
    covered = COVERED[start_c:stop_c]
    bright = np.zeros((len(covered) * CELL_PX, WIDTH_C * CELL_PX), bool)
    return CellRows(EVIDENCE[:, start_c:stop_c] * covered, covered, bright)


def writer(folder: Path, kind: Kind = "segment", **options: Any) -> ProbabilityWriter:
    return ProbabilityWriter(
        folder / "s.probabilities.ome.zarr", contract(kind), (HEIGHT_C, WIDTH_C), (0.5, 0.51), {"release": "r"}, **options
    )


def expected(kind: Kind) -> np.ndarray:
    background = np.where(COVERED, EVIDENCE[:1], 1)
    channels = np.concatenate([background, EVIDENCE[1:] * COVERED])
    levels: np.ndarray = np.rint(channels * 255).astype(np.uint8)
    return levels if kind == "segment" else levels[1:]


@pytest.mark.parametrize("kind", ["segment", "cam"])
def test_holds_what_the_network_said(tmp_path: Path, kind: Kind) -> None:
    map_writer = writer(tmp_path, kind)
    for start_c in range(0, HEIGHT_C, 13):
        map_writer.add(rows(start_c, min(start_c + 13, HEIGHT_C)))
    assert not map_writer.store.exists()
    map_writer.finish()
    np.testing.assert_array_equal(read_probabilities(map_writer.store), expected(kind))
    finest, next_level = (read_probabilities(map_writer.store, level).astype(float) for level in (0, 1))
    assert next_level.shape[1:] == (550, 31)
    blocks = finest[:, :, :60].reshape(len(finest), 550, 2, 30, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(next_level[:, :, :30], blocks, atol=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["s.probabilities.ome.zarr"]


def test_lies_where_the_mask_lies(tmp_path: Path) -> None:
    map_writer = writer(tmp_path)
    map_writer.add(rows(0, HEIGHT_C))
    map_writer.finish()
    group = zarr.open_group(map_writer.store, mode="r")
    Image.from_zarr(group)  # raises where it is not valid
    ome: Any = group.attrs["ome"]
    for dataset in ome["multiscales"][0]["datasets"]:
        scale, translation = (step[kind] for step, kind in zip(dataset["coordinateTransformations"], ("scale", "translation"), strict=True))
        corner = [offset - size / 2 for offset, size in zip(translation[1:], scale[1:], strict=True)]
        np.testing.assert_allclose(corner, [-0.255, -0.25])  # the mask's corner: half a model pixel before its first center
    assert ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == [1, 0.51 * CELL_PX, 0.5 * CELL_PX]
    assert [channel["label"] for channel in ome["omero"]["channels"]] == ["background", "tumor", "gland", "stroma", "necrosis"]


@pytest.mark.parametrize("stop_c", [0, 26, 700, 1099])
def test_goes_on_after_an_interruption(tmp_path: Path, stop_c: int) -> None:
    first = writer(tmp_path)
    first.add(rows(0, stop_c))
    state = {key: value.copy() for key, value in first.state().items()}
    first.add(rows(stop_c, min(stop_c + 600, HEIGHT_C)))  # of which nobody knows any more
    second = writer(tmp_path, state=state)
    second.add(rows(stop_c, HEIGHT_C))
    second.finish()
    np.testing.assert_array_equal(read_probabilities(second.store), expected("segment"))


def test_says_when_rows_are_missing(tmp_path: Path) -> None:
    short = writer(tmp_path)
    short.add(rows(0, 100))
    with pytest.raises(ValueError, match="expected 1100 rows of cells, got 100"):
        short.finish()
    short.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="give --fresh"):
        writer(tmp_path, state={"map_row": np.array(0), "map_waiting": np.zeros((5, 0, WIDTH_C), np.uint8)})
