"""What `bench limits` measures and what follows: the ceilings of a model on this machine, and the share that is reached. Knows no flags."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clients.local_model import LocalModel
from clients.served_model import ServedModel
from serving.check import VERSION, check_repository, parse_contract
from serving.embedded import EmbeddedTriton
from serving.modelconfig import EnsembleConfig, ModelConfig

from ..null_triton import NULL_MODEL, null_server
from .errors import BenchError
from .flops import count_arithmetic
from .hardware import copy_gb_s, cores, decode_per_s, gemm_gflops
from .results import Point, Results
from .throughput import stream_for
from .tiles import make_tiles

_LOOPBACK_BATCH, _IN_FLIGHT = 16, 4


@dataclass(frozen=True)
class Limits:
    """What is measured; see the flags of `bench limits`."""

    entry: str
    repository: Path
    batch: int
    native_tile_px: int
    seconds: float
    turns: int


def measure_limits(limits: Limits, results: Results, say: Callable[[Point], None]) -> None:
    """Measure what the file lacks, and the ratios.

    Raises:
        ServingError, ClientError, BenchError: the model cannot be served, run here, or counted.
    """
    seconds, tile_px = limits.seconds, limits.native_tile_px
    measures: dict[str, Callable[[], dict[str, Any]]] = {}
    for threads in sorted({1, cores()}):
        measures[f"gemm {threads}"] = partial(_multiplied, threads, seconds)
        measures[f"copy {threads}"] = partial(_copied, threads, seconds)
        measures[f"decode {threads}"] = partial(_decoded, threads, seconds, tile_px)
    measures["loopback"] = lambda: _loopback(seconds)
    measures["arithmetic"] = lambda: _arithmetic(limits)
    measures["reached"] = lambda: _reached(limits)
    for name, measure in measures.items():
        say(results.measure(name, measure))
    results.finish(shares(results.points, cores()))


def _multiplied(threads: int, seconds: float) -> dict[str, Any]:
    return {"threads": threads, "gflops": round(gemm_gflops(threads, seconds), 1)}


def _copied(threads: int, seconds: float) -> dict[str, Any]:
    return {"threads": threads, "gb_s": round(copy_gb_s(threads, seconds), 2)}


def _decoded(threads: int, seconds: float, tile_px: int) -> dict[str, Any]:
    per_s = decode_per_s(threads, tile_px, seconds)
    return {"threads": threads, "tile_px": tile_px, "tiles_per_s": round(per_s, 1), "mpx_per_s": round(per_s * tile_px**2 / 1e6, 1)}


def _loopback(seconds: float) -> dict[str, Any]:
    """Through gRPC to a server in python that answers at once: what the protocol costs on both sides."""
    with null_server() as address, ServedModel(address, NULL_MODEL) as model:
        tiles = make_tiles(_LOOPBACK_BATCH * 2, model.contract.task.tile_px)
        stream = stream_for(model, tiles, _LOOPBACK_BATCH, _IN_FLIGHT, seconds)
    return {"batch": _LOOPBACK_BATCH, "mb_s": round(stream.bytes_per_s / 1e6, 1), "tiles_per_s": round(stream.tiles_per_s, 1)}


def _arithmetic(limits: Limits) -> dict[str, Any]:
    """Of one tile through the network behind the slide model: counts, and the least bytes that must move."""
    path, tile_px = network_of(limits.repository, limits.entry)
    counted = count_arithmetic(path)
    return {
        "network": path.parent.parent.name,
        "tile_px": tile_px,
        "gflop_per_tile": round(counted.flops / 1e9, 6),
        "by_operator": {name: round(flops / 1e9, 6) for name, flops in counted.by_operator.items()},
        "weight_mb": round(counted.weight_bytes / 1e6, 3),
        "tile_mb": round(3 * tile_px**2 / 1e6, 6),
    }


def _reached(limits: Limits) -> dict[str, Any]:
    """Tiles per second of the engine in this process and of the same network served, by turns, out of the same tiles in memory."""
    local = LocalModel(limits.repository, limits.entry)
    tiles = make_tiles(limits.batch * 2, local.contract.task.tile_px)
    with EmbeddedTriton(limits.repository, [limits.entry]) as server, ServedModel(server.address, limits.entry) as served:
        turns = [
            {
                "engine": stream_for(local, tiles, limits.batch, 1, limits.seconds).tiles_per_s,
                "served": stream_for(served, tiles, limits.batch, _IN_FLIGHT, limits.seconds).tiles_per_s,
            }
            for _ in range(limits.turns)
        ]
        engines = {"engine": local.engine, "server": served.engine}
    ratios = [turn["served"] / turn["engine"] for turn in turns]
    return {
        "batch": limits.batch,
        **engines,
        "engine_tiles_per_s": round(statistics.median(turn["engine"] for turn in turns), 2),
        "served_tiles_per_s": round(statistics.median(turn["served"] for turn in turns), 2),
        "served_over_engine": round(statistics.median(ratios), 4),
        "served_over_engine_range": [round(min(ratios), 4), round(max(ratios), 4)],
    }


def network_of(repository: Path, entry: str) -> tuple[Path, int]:
    """The ONNX file behind an entry's slide model, and its tile's side in pixels.

    Raises:
        BenchError: it is no ONNX network.
        ServingError: the repository lacks it.
    """
    configs = check_repository(repository, [entry])
    contract = parse_contract(configs[entry])
    if contract is None:
        raise BenchError(f"{repository}: model {entry!r}: expected an entry such as demo_segment, this one has no contract: name another")
    slide = configs[contract.slide_model]
    net = configs[slide.steps[0].model] if isinstance(slide, EnsembleConfig) else slide
    if not isinstance(net, ModelConfig) or not net.file_name.endswith(".onnx"):
        raise BenchError(f"{repository}: model {net.name!r}: expected an ONNX network to count, got another backend: name another model")
    return repository / net.name / VERSION / net.file_name, contract.task.tile_px


def shares(points: Mapping[str, Mapping[str, Any]], threads: int) -> dict[str, float | None]:
    """The ceilings, tiles per second, and the shares of the lowest of them.

    Returns:
        `compute_ceiling`: all cores' GEMM rate over the arithmetic of a tile. `memory_ceiling`: copy rate over the tile, and the weights once a
        batch: what must move at least, activations in caches. `decode_ceiling`, `loopback_ceiling`: the ways of the tiles. `engine_of_ceiling`,
        `served_of_ceiling`: reached / compute ceiling. `served_over_engine`: the median over the turns.
    """
    counted, reached = points["arithmetic"], points["reached"]
    compute = points[f"gemm {threads}"]["gflops"] / counted["gflop_per_tile"]
    moved_mb = counted["tile_mb"] + counted["weight_mb"] / reached["batch"]
    natives_per_tile = (counted["tile_px"] / points[f"decode {threads}"]["tile_px"]) ** 2
    return {
        "compute_ceiling_tiles_per_s": round(compute, 2),
        "memory_ceiling_tiles_per_s": round(1000 * points[f"copy {threads}"]["gb_s"] / 2 / moved_mb, 2),
        "decode_ceiling_tiles_per_s": round(points[f"decode {threads}"]["tiles_per_s"] / natives_per_tile, 2),
        "loopback_ceiling_tiles_per_s": round(points["loopback"]["mb_s"] / counted["tile_mb"], 2),
        "engine_of_ceiling": round(reached["engine_tiles_per_s"] / compute, 4),
        "served_of_ceiling": round(reached["served_tiles_per_s"] / compute, 4),
        "served_over_engine": reached["served_over_engine"],
    }
