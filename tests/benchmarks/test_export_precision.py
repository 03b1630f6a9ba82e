"""The precision measurement on generated crops and one small graph: which tiles are measured, what is written, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from benchmarks.export_precision import main
from export.to_onnx import to_onnx
from export.wrapper import SegmentNet
from tests.export.networks import DEMO, SEGMENT_CELL_PX
from tests.export.test_int8 import SIGNATURE, Deep


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fp32 graph of the demo task, where a release has it."""
    path = tmp_path_factory.mktemp("repository") / "demo_r1_segment_net" / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(to_onnx(SegmentNet(Deep(), DEMO.normalization, SEGMENT_CELL_PX), SIGNATURE), path)
    return path


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Sixteen images of 2 × 1 tiles, each half of one class; every second one calibrates."""
    generator = np.random.default_rng(0)
    for folder in ("img", "mask"):
        (tmp_path / folder).mkdir()
    for index in range(16):
        rgb = generator.integers(60, 200, (224, 448, 3), dtype=np.uint8)
        mask = np.zeros((224, 448), np.uint8)
        mask[:, 224:] = 1
        Image.fromarray(rgb).save(tmp_path / "img" / f"{index:02}.png")
        Image.fromarray(mask).save(tmp_path / "mask" / f"{index:02}.png")
    return tmp_path


@pytest.mark.slow
def test_both_precisions_are_measured_against_truth(graph: Path, crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "figures.json"
    flags = ["--data", str(crops), "--task", "demo", "--tiles", "8", "--rounds", "0", "--output", str(output)]
    assert main([*flags, "--graphs", str(graph)]) == 0
    rows = json.loads(output.read_text())
    assert [(row["network"], row["precision"], row["on"]) for row in rows] == [
        ("demo_r1_segment_net", "fp16", "data"),
        ("demo_r1_segment_net", "int8", "data"),
    ]
    for row in rows:
        assert (row["tiles"], row["reference"]) == (8, "truth")
        assert row["bytes_candidate"] < row["bytes_fp32"]
    assert "demo_r1_segment_net fp16 on data" in capsys.readouterr().out


def test_nothing_to_measure_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 1
    assert "expected graphs or encoders to measure, got neither" in capsys.readouterr().err
