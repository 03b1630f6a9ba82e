"""The network of `make_networks` in int8, calibrated and judged on tiles of the slide, as a release beside the fp32 one. Runs in a process of its own.

    python -m benchmarks.peers.make_int8 --networks FOLDER --slide SLIDE --output FOLDER

Imports torch. Seeded weights decide nothing: the gate's agreement is of labels with fp32, no accuracy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import tyro

from export.canary import CANARY_TILES
from export.convert import PrecisionOptions, convert
from export.errors import ExportError
from export.graphs import KindGraphs
from export.precision import PrecisionReport
from export.release import Draft
from export.repository import publish
from export.speed import ALL_THREADS
from serving.check import VERSION, check_repository
from serving.contract import Contract
from serving.modelconfig import ONNX_FILE, contract_of

from ..slide_tiles import cut_halves

FP32, INT8 = "peers", "peersint8"  # names of the models in their repositories
NOTES_FILE = "int8.json"
_SEGMENT = "segment"


@dataclass(frozen=True)
class Int8Config:
    """A repository with the network in int8, if export's gate lets it through; the gate's figures or its refusal in any case."""

    networks: Path
    """What `make_networks` wrote; read only."""
    slide: Path
    """Its level 0 is the network's scale. Every second tile calibrates, the others are judged on."""
    output: Path
    """Folder that gets int8.json and, if the gate allows, repository/."""
    tiles: int = 32
    """At most so many of each."""
    max_miou_loss: float = 1.0
    """Points of mean IoU against fp32's own labels that int8 may lose, as of `histoserve export`."""
    rounds: int = 9
    """Of the gate's speed measurement; int8 that is not faster is refused."""


def make(config: Int8Config) -> None:
    """Write everything; `int8.json` last."""
    try:
        gate = gate_figures(_publish_int8(config)) | {"max_miou_loss": config.max_miou_loss}
        notes: dict[str, Any] = {"refused": None, "gate": gate}
    except ExportError as refusal:
        notes = {"refused": str(refusal), "gate": None}
    (config.output / NOTES_FILE).write_text(json.dumps(notes, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _publish_int8(config: Int8Config) -> PrecisionReport:
    """The release, behind the gate; what it costs and gives beside fp32.

    Raises:
        TilesError: the slide has too few tiles.
        GraphError, ParityError: it cannot be int8, does not agree with fp32, or is not faster.
    """
    repository = config.networks / "repository"
    configs = check_repository(repository, [f"{FP32}_{_SEGMENT}"])
    contract = contract_of(configs[f"{FP32}_{_SEGMENT}"])
    calibration, judged = cut_halves(config.slide, contract.task.tile_px, config.tiles)
    options = PrecisionOptions("int8", calibration, config.max_miou_loss, config.rounds)
    int8, report = convert(_read_graph(repository, contract, "net"), judged, options)
    assert report is not None  # fp32 alone has none
    labels = _read_graph(repository, contract, "labels") if contract.task.background is not None else None
    graphs = (KindGraphs("segment", contract.cell_px, int8, labels, (), "int8", report),)
    # The slide's own, since this release does not travel: on tiles unlike those it was calibrated on, two engines' int8 differ by more than the canary allows.
    draft = Draft(contract.task, "peers", graphs, judged[:CANARY_TILES], {"command": "bench peers"})
    publish(config.output / "repository", INT8, draft)
    return report


def _read_graph(repository: Path, contract: Contract, part: str) -> onnx.ModelProto:
    return onnx.load(repository / f"{contract.release}_{part}" / VERSION / ONNX_FILE)


def gate_figures(report: PrecisionReport) -> dict[str, Any]:
    """What the gate measured on the tiles, as plain values for JSON; `speed_…` is fp32's time over int8's in ONNX Runtime."""
    loss_points = report.to_dict()["miou_loss_points"]
    return {
        "tiles": report.tiles,
        "label_agreement": round(report.figures["label_agreement"], 6),
        "miou_loss_points": None if loss_points is None else round(loss_points, 3),
        "bytes_fp32": report.bytes_fp32,
        "bytes_int8": report.bytes_candidate,
        **{f"speed_{'all_threads' if speed.threads == ALL_THREADS else 'one_thread'}": round(speed.ratio, 3) for speed in report.speeds},
    }


if __name__ == "__main__":
    make(tyro.cli(Int8Config, prog="make_int8"))
