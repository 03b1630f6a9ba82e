"""OpenVINO beside ONNX Runtime, and what happens without it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export.engines import ENGINES, OPENVINO, TENSORRT
from export.errors import GraphError
from export.graphs import KindGraphs
from export.openvino_runtime import OpenVinoGraph
from export.runtime import Graph
from serving.contract import LABELS, PROBABILITIES, TILE
from tests.export.networks import tissue_like

needs_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


@needs_openvino
def test_says_what_onnx_runtime_says(graphs: tuple[KindGraphs, ...]) -> None:
    tiles = tissue_like(3)
    openvino = OpenVinoGraph(graphs[0].net)
    answer = openvino.run({TILE: tiles})
    expected = Graph(graphs[0].net).run({TILE: tiles})
    assert {name: (array.shape, array.dtype) for name, array in answer.items()} == {
        name: (array.shape, array.dtype) for name, array in expected.items()
    }
    assert np.abs(answer[PROBABILITIES].astype(int) - expected[PROBABILITIES]).max() <= 1
    kept = answer[LABELS].copy()
    openvino.run({TILE: 255 - tiles})
    np.testing.assert_array_equal(answer[LABELS], kept)  # a later call does not write into an earlier answer


@needs_openvino
def test_wrong_inputs_are_one_error(graphs: tuple[KindGraphs, ...]) -> None:
    with pytest.raises(GraphError, match=r"OpenVINO cannot run it on TILE \[1, 32, 32, 3\]"):
        OpenVinoGraph(graphs[0].net).run({TILE: tissue_like(1, tile_px=32)})


@needs_openvino
def test_nothing_is_sent_to_its_maker(tmp_path: Path) -> None:
    """Importing openvino by itself would write a client's number into the home folder and send an event."""
    script = (
        "import importlib, sys; importlib.import_module('serving.backends.onnxruntime.openvino_engine'); "
        "assert 'openvino' in sys.modules; "
        "print([name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module is not None])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={"HOME": str(tmp_path), "PATH": ""}, check=True
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_without_it_the_reason_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, graphs: tuple[KindGraphs, ...]) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert OPENVINO.absent(graphs[0].net) == "openvino is not installed: pip install openvino"
    assert TENSORRT.absent(graphs[0].net) == "tensorrt is not installed; its engines are checked where they are built"
    with pytest.raises(GraphError, match="expected OpenVINO: openvino is not installed"):
        OpenVinoGraph(graphs[0].net)


def test_onnx_runtime_comes_first_and_is_always_there(graphs: tuple[KindGraphs, ...]) -> None:
    assert [engine.name for engine in ENGINES] == ["onnxruntime", "openvino", "tensorrt"]
    assert ENGINES[0].absent(graphs[0].net) is None
