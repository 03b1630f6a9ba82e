"""Turns, a peer that fails or is not there, scripts' last lines, what is made once; and three peers for real on a tiny slide."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest

from benchmarks.bench import peers_cli
from benchmarks.bench.errors import BenchError
from benchmarks.bench.peers_environment import PeerMissing, _once
from benchmarks.bench.peers_run import Setup, measure_peer, turns
from benchmarks.bench.peers_table import PEERS, Peer, Server, Task, read_printed
from benchmarks.bench.results import read_results
from benchmarks.peers.openslide_loop import corners_of, read_tile
from benchmarks.repeated_slide import write_repeated


def _setup(folder: Path) -> Setup:
    return Setup(Path("a.svs"), Path("null.tiff"), folder / "networks", folder, 60.0)


def _script(source: str) -> Peer:
    def command(task: Task, server: Server) -> list[str]:
        return [sys.executable, "-c", source, str(task.labels)]

    return Peer("made up", command, read_printed)


def test_every_other_round_runs_backwards() -> None:
    assert turns(["a", "b", "c"], 3) == [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("b", 1), ("a", 1), ("a", 2), ("b", 2), ("c", 2)]


def test_a_run_becomes_a_point(tmp_path: Path) -> None:
    source = (
        "import sys; import time; import numpy as np; np.save(sys.argv[1], np.array([[1, 2]], np.uint8)); print('noise'); "
        "time.sleep(1); "  # until its memory was looked at, which happens ten times a second
        'print(\'{"tiles": 40, "work_s": 8.0, "load_s": 1.0}\')'
    )
    for slide, labels in (("a", [[1, 3]]), ("other", [[3, 3]])):  # what an earlier run left of another slide is no reference
        reference = tmp_path / "runs" / slide / "openslide-torch"
        reference.mkdir(parents=True)
        np.save(reference / "labels.npy", np.array(labels, np.uint8))
    point = measure_peer("mine", _script(source), 2, _setup(tmp_path))
    assert {name: point[name] for name in ("peer", "round", "slide", "tiles", "work_s", "tiles_per_s", "agreement", "compared")} == {
        "peer": "mine",
        "round": 2,
        "slide": "a.svs",
        "tiles": 40,
        "work_s": 8.0,
        "tiles_per_s": 5.0,
        "agreement": 0.5,
        "compared": 1.0,
    }
    assert point["cpu_s_per_1000_tiles"] == pytest.approx(point["cpu_s"] * 25, abs=0.02)
    assert point["peak_mb"] > 1


def test_a_peer_that_fails_is_told(tmp_path: Path) -> None:
    point = measure_peer("mine-null", _script("raise SystemExit('no such slide')"), 0, _setup(tmp_path))
    assert point["slide"] == "null.tiff"
    assert "ended with exit code 1; it said: no such slide" in point["failed"]


def test_a_peer_that_prints_something_else_is_told(tmp_path: Path) -> None:
    assert "expected JSON with tiles and work_s" in measure_peer("mine", _script("print('hello')"), 0, _setup(tmp_path))["failed"]


def test_a_peer_that_cannot_be_installed_is_told(tmp_path: Path) -> None:
    def refuse(task: Task) -> dict[str, Any]:
        raise PeerMissing("TIAToolbox: no network here")

    point = measure_peer("mine", replace(_script("print(1)"), prepare=refuse), 0, _setup(tmp_path))
    assert point["failed"] == "TIAToolbox: no network here"


def test_what_was_half_made_is_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def fail() -> None:
        (tmp_path / "e" / "half").touch()
        raise PeerMissing("no")

    with pytest.raises(PeerMissing):
        _once(tmp_path / "e", "a==1", fail)
    for wanted in ("a==1", "a==1", "a==2"):
        _once(tmp_path / "e", wanted, lambda wanted=wanted: made.append(wanted))  # type: ignore[misc]
    assert made == ["a==1", "a==2"]
    assert not (tmp_path / "e" / "half").exists()


def test_tiles_cover_the_slide_and_are_white_outside(tmp_path: Path) -> None:
    write_repeated(tmp_path / "s.tiff", 300, 520)
    assert corners_of(300, 520, 256) == [(0, 0), (256, 0), (0, 256), (256, 256), (0, 512), (256, 512)]
    with openslide.OpenSlide(str(tmp_path / "s.tiff")) as slide:
        inside, corner = read_tile(slide, (0, 0), 256), read_tile(slide, (256, 512), 256)
        whole = np.asarray(slide.read_region((0, 0), 0, (300, 520)))[..., :3]
    assert np.array_equal(inside, whole[:256, :256])
    assert np.array_equal(corner[:8, :44], whole[512:, 256:])
    assert (corner[8:] == 255).all()
    assert (corner[:, 44:] == 255).all()


def test_unknown_peers_are_wrong_usage() -> None:
    with pytest.raises(ValueError, match="--peers nobody: expected some of openslide-torch"):
        peers_cli.Flags(slide=Path("s.tiff"), peers=("nobody",))


def test_the_network_takes_the_slides_scale(tmp_path: Path) -> None:
    write_repeated(tmp_path / "s.tiff", 300, 300, mpp=0.42)
    found = peers_cli.network_arguments(peers_cli.Flags(tile_px=64, encoder="resnet10t"), tmp_path / "s.tiff")
    assert found == ["--mpp", "0.4200", "--encoder", "resnet10t", "--tile-px", "64"]
    without = peers_cli.Flags(peers=("local", "served"))
    assert peers_cli.network_arguments(without, tmp_path / "s.tiff")[-1] == "--no-null"


@pytest.mark.slow
def test_three_peers_say_the_same_of_a_tiny_slide(tmp_path: Path) -> None:
    write_repeated(tmp_path / "s.tiff", 448, 384)
    peers = ("openslide-torch", "openslide-onnxruntime", "local")
    flags = peers_cli.Flags(
        slide=tmp_path / "s.tiff",
        output=tmp_path / "r.json",
        peers=peers,
        rounds=1,
        encoder="resnet10t",
        tile_px=64,
        folder=tmp_path / "peers",
    )
    peers_cli.run(flags)
    points: list[dict[str, Any]] = read_results(tmp_path / "r.json")["points"]
    assert [point["peer"] for point in points] == list(peers)
    assert [point.get("failed") for point in points] == [None] * 3
    assert {point["tiles"] for point in points} == {42}
    # Local's edge of the slide and glass follow its own rules; all the rest is the same network.
    assert all(point["agreement"] > 0.97 for point in points)
    assert all(point["cpu_s"] > 0 and point["peak_mb"] > 30 for point in points)
    peers_cli.run(flags)  # nothing is measured twice
    assert json.loads((tmp_path / "r.json").read_text())["points"] == points


def test_every_peer_has_a_word_and_a_reference_that_runs_first() -> None:
    names = list(PEERS)
    assert all(peer.help for peer in PEERS.values())
    assert all(not peer.reference or names.index(peer.reference) <= names.index(name) for name, peer in PEERS.items())
    with pytest.raises(BenchError, match="as the last line, got"):
        read_printed(Task(Path("s"), Path("n"), Path("f"), Path("o")), "")
