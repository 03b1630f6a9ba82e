"""The int8 peer: whose tiles it is calibrated on, what export's gate says of it, and how that is told."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openslide
import pytest

from benchmarks.bench.peers_environment import PeerMissing, int8_networks
from benchmarks.bench.peers_run import Setup, measure_peer
from benchmarks.bench.peers_table import PEERS, Server, Task
from benchmarks.bench.report_sections import section_of
from benchmarks.peers.make_int8 import Int8Config, make
from benchmarks.repeated_slide import write_repeated
from benchmarks.slide_tiles import cut_halves, is_tissue
from export.canary import canary_tiles
from export.graphs import KindGraphs
from export.release import Draft
from export.repository import publish
from export.speed import Speed
from serving.canary import CANARY_FILE
from serving.check import check_repository
from serving.modelconfig import contract_of

from .result_contents import content

REPOSITORY = Path(__file__).parents[3] / "model_repository"
GATE = {"tiles": 9, "label_agreement": 0.98, "speed_one_thread": 2.0, "max_miou_loss": 1.0}


def _made(folder: Path, notes: dict[str, Any]) -> tuple[Path, Path, Path]:
    """Folders as after `int8_networks`: those of int8 and of the networks, and the slide."""
    networks, slide = folder / "networks", folder / "s.tiff"
    for made in (networks, folder / "networks-int8"):
        made.mkdir()
    (networks / ".done").write_text("--mpp 0.5")
    (folder / "networks-int8" / ".done").write_text(f"--mpp 0.5 on {slide}, 1 points")
    (folder / "networks-int8" / "int8.json").write_text(json.dumps(notes))
    return folder / "networks-int8", networks, slide


def test_halves_are_different_tiles_with_tissue_of_level_0(tmp_path: Path) -> None:
    write_repeated(tmp_path / "s.tiff", 1100, 1100)
    calibration, judged = cut_halves(tmp_path / "s.tiff", 64, 8)
    assert calibration.shape == judged.shape == (8, 64, 64, 3)
    assert cut_halves(tmp_path / "s.tiff", 64, 2)[0].shape == (2, 64, 64, 3)
    with openslide.OpenSlide(str(tmp_path / "s.tiff")) as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, (1088, 1088)))[..., :3]
    known = {whole[y : y + 64, x : x + 64].tobytes(): (x, y) for y in range(0, 1088, 64) for x in range(0, 1088, 64)}
    places = [[known[tile.tobytes()] for tile in half] for half in (calibration, judged)]
    assert not set(places[0]) & set(places[1])
    assert all(is_tissue(tile) for tile in (*calibration, *judged))
    assert sorted(places[0] + places[1], key=lambda place: (place[1], place[0])) == [
        place for pair in zip(*places, strict=True) for place in pair
    ]


def test_glass_is_no_tissue() -> None:
    tile = np.full((8, 8, 3), 240, np.uint8)
    assert not is_tissue(tile)
    tile[:4] = 100
    assert is_tissue(tile)


def test_a_slide_of_less_than_a_tile_gives_none(tmp_path: Path) -> None:
    write_repeated(tmp_path / "s.tiff", 300, 300)
    assert [half.shape for half in cut_halves(tmp_path / "s.tiff", 512, 8)] == [(0, 512, 512, 3)] * 2


def test_a_refusal_is_the_reason_that_the_peer_is_missing(tmp_path: Path) -> None:
    folder, networks, slide = _made(tmp_path, {"refused": "segment_net: int8 is refused: slow", "gate": None})
    with pytest.raises(PeerMissing, match=r"segment_net: int8 is refused: slow \(judged once: remove .*networks-int8"):
        int8_networks(folder, networks, slide, 1.0)
    point = measure_peer("served-int8", PEERS["served-int8"], 0, Setup(slide, slide, networks, tmp_path, 60.0))
    assert point["failed"].startswith("segment_net: int8 is refused: slow")
    assert "tiles_per_s" not in point


def test_the_gates_figures_stand_in_the_point(tmp_path: Path) -> None:
    folder, networks, slide = _made(tmp_path, {"refused": None, "gate": GATE})
    assert int8_networks(folder, networks, slide, 1.0) == GATE

    def command(task: Task, server: Server) -> list[str]:
        return ["echo", '{"tiles": 4, "work_s": 2.0}']

    peer = replace(PEERS["served-int8"], command=command, serve=None, read=PEERS["openslide-torch"].read)
    point = measure_peer("served-int8", peer, 0, Setup(slide, slide, networks, tmp_path, 60.0))
    assert (point["tiles_per_s"], point["gate"]) == (2.0, GATE)
    tables = section_of(content("bench-peers", [{"name": "served-int8 0", **point}], {})).tables
    (gates,) = (table for table in tables if table.heads[0] == "export's gate")
    assert gates.heads[1:] == ("tiles", "label agreement", "speed one thread", "max miou loss")
    assert gates.rows == (("served-int8 0", "9", "0.98", "2", "1"),)


@pytest.mark.slow
def test_int8_is_judged_and_published_beside_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks, int8 = _publish_default(tmp_path / "networks"), tmp_path / "int8"
    int8.mkdir()
    write_repeated(tmp_path / "s.tiff", 1664, 1664)
    write_repeated(tmp_path / "small.tiff", 200, 200)

    make(Int8Config(networks, tmp_path / "small.tiff", int8))
    assert re.search("expected at least 8 tiles to calibrate int8 on, got", json.loads((int8 / "int8.json").read_text())["refused"])
    config = Int8Config(networks, tmp_path / "s.tiff", int8, tiles=16, max_miou_loss=100.0)
    monkeypatch.setattr("export.precision.measure_speeds", _speeds(0.9))
    make(config)
    assert "expected it to be faster than fp32, got 0.90×" in json.loads((int8 / "int8.json").read_text())["refused"]
    assert not (int8 / "repository").exists()

    monkeypatch.setattr("export.precision.measure_speeds", _speeds(2.0))
    make(config)
    notes = json.loads((int8 / "int8.json").read_text())
    assert notes["refused"] is None, notes
    assert notes["gate"]["label_agreement"] >= 0.97
    assert (notes["gate"]["speed_one_thread"], notes["gate"]["speed_all_threads"]) == (2.0, 2.0)
    assert notes["gate"]["bytes_int8"] < notes["gate"]["bytes_fp32"]
    models = check_repository(int8 / "repository", ["peersint8_segment"])
    graph = onnx.load(int8 / "repository" / "peersint8_r1_segment_net" / "1" / "model.onnx")
    assert "QuantizeLinear" in {node.op_type for node in graph.graph.node}
    assert "peersint8_r1_segment" in models
    _, judged = cut_halves(tmp_path / "s.tiff", 128, 16)
    assert np.array_equal(np.load(int8 / "repository" / "peersint8_r1_segment" / CANARY_FILE)["TILE"], judged[:2])


def _publish_default(networks: Path) -> Path:
    """The model that ships, which is trained: seeded networks of this size decide by too little for the gate."""
    configs = check_repository(REPOSITORY, ["default_segment"])
    contract = contract_of(configs["default_segment"])
    net, labels = (onnx.load(REPOSITORY / f"{contract.release}_{part}" / "1" / "model.onnx") for part in ("net", "labels"))
    graphs = (KindGraphs("segment", contract.cell_px, net, labels, ()),)
    publish(networks / "repository", "peers", Draft(contract.task, "peers", graphs, canary_tiles(contract.task.tile_px), {}))
    return networks


def _speeds(ratio: float) -> Any:
    """A clock's figures, not its work: which decide whether int8 may be published."""
    return lambda *given: tuple(Speed(threads, ratio, ratio, ratio, 3, "wall", 1.0) for threads in (1, 0))
