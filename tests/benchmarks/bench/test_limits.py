"""Shares of known ceilings, streams of a model that counts, and rates of calls that are counted."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.bench.errors import BenchError
from benchmarks.bench.hardware import best_per_s, cores, decode_per_s, gemm_gflops
from benchmarks.bench.limits_plan import network_of, shares
from benchmarks.bench.throughput import stream_for
from benchmarks.bench.tiles import encode_tile, make_tiles
from serving.contract import Contract
from tests.serving import tiny_release as tiny

from .result_contents import limits_content


def test_shares_of_known_ceilings() -> None:
    points = {point["name"]: point for point in limits_content()["points"]}
    assert shares(points, 2) == {
        "compute_ceiling_tiles_per_s": 1000.0,  # 100 GFLOP/s, 0.1 a tile
        "memory_ceiling_tiles_per_s": pytest.approx(
            10_000 / 0.15, abs=0.01
        ),  # read at 10 GB/s: 0.05 MB of tile, 1.6 MB of weights for 16 tiles
        "decode_ceiling_tiles_per_s": 16_000.0,  # four tiles of 128 in one of 256
        "loopback_ceiling_tiles_per_s": 10_000.0,
        "engine_of_ceiling": 0.4,
        "served_of_ceiling": 0.3,
        "served_over_engine": 0.75,
    }


class CountingModel:
    """Answers each batch with its own bytes' sum, and remembers how many it had."""

    contract: Contract = tiny.contract()
    max_batch = 8

    def __init__(self) -> None:
        self.batches: list[int] = []

    def stream(self, batches: Iterable[tuple[Any, Any]], in_flight: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        for tag, tiles in batches:
            self.batches.append(len(tiles))
            yield tag, {"SUM": np.array([tiles.sum()], dtype=np.int64)}


def test_a_stream_counts_tiles_and_bytes_of_both_ways() -> None:
    model = CountingModel()
    tiles = make_tiles(4, tiny.TILE_PX)
    stream = stream_for(model, tiles, 2, 1, 0.02)
    assert set(model.batches) == {2}
    assert len(model.batches) >= 2
    assert stream.bytes_per_s / stream.tiles_per_s == pytest.approx(tiles[0].nbytes + 8 / 2)


def test_all_threads_call_and_all_calls_count() -> None:
    calls = [0, 0]  # each thread writes its own place: nothing is shared while the other runs
    barrier = threading.Barrier(2)

    def call(thread: int) -> None:
        if calls[thread] == 0:
            barrier.wait(10)  # both are there at a time
        calls[thread] += 1

    assert best_per_s(call, 2, 0.03) > 0
    assert min(calls) > 1


def test_the_machine_multiplies_and_decodes() -> None:
    assert cores() >= 1
    assert 0.05 < gemm_gflops(1, 0.03) < 10_000
    assert decode_per_s(1, 64, 0.03) > 10


def test_tiles_are_tissue_and_always_the_same() -> None:
    tiles = make_tiles(3, 64)
    assert tiles.shape == (3, 64, 64, 3)
    assert tiles.dtype == np.uint8
    assert np.array_equal(tiles, make_tiles(3, 64))
    assert not np.array_equal(tiles[0], tiles[1])
    assert (make_tiles(16, 64).mean(axis=3) < 200).mean() > 0.8  # of the whole picture it is 0.39
    assert encode_tile(tiles[0])[:2] == b"\xff\xd8"


def test_the_counted_network_is_the_one_behind_the_entry(tmp_path: Path) -> None:
    repository = tiny.write_tiny_release(tmp_path / "model_repository")
    path, tile_px = network_of(repository, tiny.ENTRY)
    assert (path.parent.parent.name, tile_px) == (tiny.NET, tiny.TILE_PX)
    assert path.is_file()
    with pytest.raises(BenchError, match="no contract"):
        network_of(repository, tiny.NET)
