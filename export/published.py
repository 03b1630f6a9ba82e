"""Runs the gate again on a published release: against torch where its checkpoint is given, and against its canary. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from serving.background import background_mask
from serving.canary import CANARY_FILE, read_canary
from serving.check import VERSION, check_repository
from serving.contract import BACKGROUND, LABELS, PROBABILITIES, TILE, Contract, Kind
from serving.modelconfig import ONNX_FILE, Config, contract_of
from training.checkpoint import Checkpoint

from .card import damaged_files
from .engines import ENGINES, ONNX_RUNTIME, Engine
from .errors import ExportError, GraphError, PublishError
from .expected import Expected, from_graph, from_torch
from .figures import Figure, ParityReport
from .graphs import KindGraphs, measure_graphs
from .parity import Precision, agreement, figure_of, require_tiles, worst_tile
from .repository import Release, digests_of
from .rows import max_abs
from .signature import NET_PREFIX, is_combined, labels_signature, network_signature
from .to_onnx import check_graph


@dataclass(frozen=True)
class Published:
    """One kind of a release.

    Attributes:
        graphs: without reports.
        canary: TILE and the frozen ensemble's outputs, as they were when it was exported.
    """

    contract: Contract
    graphs: KindGraphs
    canary: dict[str, npt.NDArray[Any]]


def read_published(repository: Path, release: Release, kind: Kind) -> Published:
    """One kind of the release, its graphs checked by the rules of today.

    Raises:
        PublishError: a file has changed since the release was published.
        RepositoryError, GraphError: its models do not fit together, or a graph breaks a rule.
    """
    faults = damaged_files(repository, digests_of(repository, release))
    if faults:
        raise PublishError(
            f"release {release.prefix!r}: expected the files it was published with: {'; '.join(faults)}: export again or roll back"
        )
    configs = check_repository(repository, release.models)
    return _read_kind(repository, configs, contract_of(configs[release.frozen(kind)]), release.precisions[kind])


def measure_published(
    published: Published, tiles: npt.NDArray[np.uint8], checkpoint: Checkpoint | None, engines: Sequence[Engine] = ENGINES
) -> tuple[ParityReport, ...]:
    """All figures of one kind, in every engine that is there.

    Args:
        tiles: uint8 (n, tile_px, tile_px, 3).
        checkpoint: what the release was exported from; without it ONNX Runtime, each tile alone, is the yardstick.

    Raises:
        ParityError: there are too few tiles.
        GraphError: an engine cannot run a graph.
    """
    require_tiles(published.contract.kind, tiles)
    expected = _expected(published, tiles, checkpoint)
    return (*measure_graphs(published.graphs, expected, tiles, engines), *(_measure_canary(published, engine) for engine in engines))


def _read_kind(repository: Path, configs: dict[str, Config], contract: Contract, precision: Precision) -> Published:
    net_name, labels_name = f"{contract.release}_net", f"{contract.release}_labels"
    net = _read_graph(repository, net_name)
    labels = _read_graph(repository, labels_name) if labels_name in configs else None
    check_graph(net, network_signature(contract.kind, contract.task, contract.cell_px))
    if labels is not None:
        check_graph(labels, labels_signature(contract.kind, contract.task, contract.cell_px))
    graphs = KindGraphs(contract.kind, contract.cell_px, net, labels, (), precision)
    return Published(contract, graphs, read_canary(repository / contract.release / CANARY_FILE))


def _read_graph(repository: Path, model: str) -> ModelProto:
    path = repository / model / VERSION / ONNX_FILE
    try:
        return onnx.load(path)
    except (OSError, DecodeError) as error:
        raise GraphError(
            f"{path}: expected an ONNX graph to check, cannot read it: {error}: engines are checked where they are built"
        ) from error


def _expected(published: Published, tiles: npt.NDArray[np.uint8], checkpoint: Checkpoint | None) -> Expected:
    kind, task, cell_px = published.contract.kind, published.contract.task, published.contract.cell_px
    if checkpoint is None:
        return from_graph(kind, published.graphs.net, tiles)
    network = checkpoint.segment_network if kind == "segment" else checkpoint.cam_network
    if network is None:
        raise ExportError(f"checkpoint: expected the network behind {published.contract.release!r}, got a checkpoint without one")
    return from_torch(kind, network, task, cell_px, tiles)


def _measure_canary(published: Published, engine: Engine) -> ParityReport:
    """The frozen ensemble in one engine, chained by hand, against the record that the server checks itself with."""
    stored = published.canary
    name = f"{published.contract.kind} canary"
    not_run = engine.absent(published.graphs.net)
    if not_run is not None:
        return ParityReport(name, len(stored[TILE]), (), engine.name, "its record", not_run)
    answer = _answer(published, engine)
    precision = published.graphs.precision
    figures = tuple(_canary_figure(output, values, answer[output], precision) for output, values in stored.items() if output != TILE)
    worst = worst_tile(stored[TILE], stored[LABELS], answer[LABELS])
    return ParityReport(name, len(stored[TILE]), figures, engine.name, "its record", worst=worst)


def _answer(published: Published, engine: Engine) -> dict[str, npt.NDArray[Any]]:
    tiles, graphs, rule = published.canary[TILE], published.graphs, published.contract.task.background
    answer = engine.load(graphs.net).run({TILE: tiles})
    if graphs.labels is None or rule is None:
        return answer
    background = np.stack([background_mask(tile, rule.gray_above, rule.min_size_px) for tile in tiles]).astype(np.uint8)
    read = {NET_PREFIX + name: array for name, array in answer.items() if is_combined(graphs.kind, name)}
    combining = engine if engine.combines else ONNX_RUNTIME
    return combining.load(graphs.labels).run({**read, BACKGROUND: background})


def _canary_figure(output: str, stored: npt.NDArray[Any], got: npt.NDArray[Any], precision: Precision) -> Figure:
    if output == LABELS:
        return figure_of("canary_agreement", agreement(got, stored), precision)
    return figure_of("canary_max_levels" if output == PROBABILITIES else "canary_max_abs", max_abs(got, stored), precision)
