"""The backend's two engines on the miniature's network: same values, and the settings that they were asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from serving.contract import LABELS, PROBABILITIES, TILE

from . import tiny_release as tiny
from .backend import BACKEND, backend_module

Choice = backend_module("engine_choice").Choice
RuntimeEngine = backend_module("runtime_engine").RuntimeEngine
openvino_engine = backend_module("openvino_engine")
OpenVinoEngine = openvino_engine.OpenVinoEngine
EXPECTED = {LABELS: tiny.net_labels, PROBABILITIES: tiny.net_probabilities}
CORES = len(os.sched_getaffinity(0))
SUBSETS = [[LABELS], [PROBABILITIES], [LABELS, PROBABILITIES]]


def choice(threads: int = 1, level: int = 0) -> Any:
    return Choice("", "", threads=threads, inter_op_threads=1, graph_level=level)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("engines") / "model.onnx"
    onnx.save(tiny.net_graph(), file)
    return str(file)


@pytest.fixture(params=[(RuntimeEngine, 1), (OpenVinoEngine, 1), (OpenVinoEngine, 3)], ids=["runtime", "openvino", "openvino-streams"])
def engine(request: pytest.FixtureRequest, path: str) -> Any:
    kind, threads = request.param
    return kind(path, choice(threads))


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_each_subset_of_the_outputs_at_changing_batches(engine: Any, names: list[str]) -> None:
    assert (engine.inputs, engine.outputs) == ({TILE}, {LABELS, PROBABILITIES})
    for count in (3, 1, 5, 37, 3):  # more than a run or a piece takes, and what is left over
        tiles = tiny.random_tiles(count, seed=count)
        rows = engine.run({TILE: tiles}, names)
        assert list(rows) == names
        for name in names:
            np.testing.assert_array_equal(rows[name], EXPECTED[name](tiles))


@pytest.mark.parametrize("rows", [2, 18])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [RuntimeEngine, OpenVinoEngine], ids=["runtime", "openvino"])
def test_a_failed_run_is_an_error_and_does_not_spoil_the_next(path: str, kind: Any, threads: int, rows: int) -> None:
    """With one thread OpenVINO's infer() swallows the error and gives the rows of the run before; with two, all further runs fail."""
    engine = kind(path, choice(threads))
    good, bad = tiny.random_tiles(rows, seed=1), tiny.random_tiles(rows, seed=2)
    bad[1, 3, 3, 0] = tiny.MAX_RED + 1
    for _ in range(2):
        np.testing.assert_array_equal(engine.run({TILE: good}, [LABELS])[LABELS], tiny.net_labels(good))
        with pytest.raises(Exception, match=r"(?s)Add|sloped"):
            engine.run({TILE: bad}, [LABELS])


def test_a_foreign_file_is_an_error_at_load(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    for kind in (RuntimeEngine, OpenVinoEngine):
        with pytest.raises(Exception, match=r"model\.onnx"):
            kind(str(tmp_path / "model.onnx"), choice())


@pytest.mark.parametrize(("threads", "rows", "streams"), [(2, 2, 1), (2, 3, min(2, CORES)), (1, 3, 1), (9, 64, min(8, CORES))])
def test_openvino_runs_in_float32_with_the_threads_it_is_given(path: str, threads: int, rows: int, streams: int) -> None:
    """Few rows get every thread at once, more are shared by streams."""
    engine = OpenVinoEngine(path, choice(threads))
    engine.run({TILE: tiny.random_tiles(rows, seed=4)}, [LABELS])
    ((key, requests),) = engine.requests.items()
    assert key == (frozenset([LABELS]), streams)
    assert len(requests) == streams
    compiled = requests[0].get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == min(threads, CORES)  # it says no more than there are
    assert compiled.get_property("NUM_STREAMS") == streams
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False
    assert [port.get_any_name() for port in compiled.outputs] == [LABELS]


def test_sets_of_outputs_beyond_a_few_share_the_whole_graph(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "MAX_COMPILED", 1)
    engine, tiles = OpenVinoEngine(path, choice()), tiny.random_tiles(2, seed=3)
    for name in (LABELS, PROBABILITIES):
        np.testing.assert_array_equal(engine.run({TILE: tiles}, [name])[name], EXPECTED[name](tiles))
    assert engine.requests.keys() == {(frozenset([LABELS]), 1), (frozenset([LABELS, PROBABILITIES]), 1)}


_LET_GO = """
import os, signal, sys, threading
import numpy as np
from openvino_engine import OpenVinoEngine
from engine_choice import Choice
engines, seen = [OpenVinoEngine(sys.argv[1], Choice("", "", threads=2, inter_op_threads=1, graph_level=0))], []
engines[0].run({"TILE": np.zeros((9, 32, 32, 3), np.uint8)}, ["LABELS"])
thread = threading.Thread(target=engines.clear)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: seen.append("seen"))
os.kill(os.getpid(), signal.SIGUSR1)
print(*seen)
"""


def test_a_signal_after_the_last_engine_is_gone_is_still_taken(path: str) -> None:
    """OpenVINO gives the first thread a signal stack of its own and frees it, in whatever thread, with its plugin."""
    done = subprocess.run([sys.executable, "-c", _LET_GO, path], cwd=BACKEND, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "seen\n")


@pytest.mark.parametrize(
    ("level", "name"), [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")]
)
def test_onnx_runtime_gets_threads_and_tritons_graph_level(path: str, level: int, name: str) -> None:
    options = RuntimeEngine(path, choice(threads=2, level=level)).session.get_session_options()
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 1
    assert options.graph_optimization_level.name == name
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
