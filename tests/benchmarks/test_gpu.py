"""`benchmarks/gpu.sh` on a CPU with tiny sizes: that it runs, and tells what it cannot run. Its figures mean nothing here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_ceiling import copy_gb_s, gemm_tflops, seconds_of
from benchmarks.gpu_lanes import LANES, LaneMissing
from benchmarks.gpu_networks import make_network

CPU = torch.device("cpu")


def test_the_ceiling_counts_operations_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu_ceiling.seconds_of", lambda call, device, repeats: 1e-3)
    assert gemm_tflops(CPU, torch.float32, 100, 1) == pytest.approx(2e6 / 1e-3 / 1e12)
    assert copy_gb_s(CPU, 3, 1) == pytest.approx(6e6 / 1e-3 / 1e9)


def test_a_call_is_repeated_and_warmed_up() -> None:
    calls: list[int] = []
    assert seconds_of(lambda: calls.append(1), CPU, 3) > 0
    assert len(calls) == 3 * 6


def test_arithmetic_of_a_tile_is_counted() -> None:
    network = make_network("smoke", "cam", "fp32", CPU)
    # ResNet-10-T at 224 px: between a tenth and ten times its published 1.1 GMACs.
    assert 0.2 < network.gflops < 22
    assert network.task.tile_px == 224


def test_what_a_cpu_cannot_run_is_told() -> None:
    network = make_network("smoke", "cam", "fp32", CPU)
    for lane in ("cuda-graph", "tensorrt"):
        with pytest.raises(LaneMissing, match="needs a GPU"):
            LANES[lane](network, 1, CPU)


def test_the_greatest_share_of_each_network_is_told() -> None:
    common = {"network": "swin-t", "kind": "cam", "precision": "fp16"}
    points: list[dict[str, Any]] = [
        {"name": "ceiling"},
        {**common, "share_of_gemm": 0.2},
        {**common, "share_of_gemm": 0.4},
        {**common, "missing": "x"},
    ]
    assert gpu.shares(points) == {"swin-t_cam_fp16_share_of_gemm": 0.4}


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "expected an NVIDIA GPU that torch sees, found none" in capsys.readouterr().err


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path: Path) -> None:
    lanes = ["torch-eager", "cuda-graph", "onnxruntime"]  # compiling takes longer than a test may
    assert gpu.main(["--device", "cpu", "--smoke", "--lanes", *lanes, "--output", str(tmp_path / "gpu.json")]) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    ceiling, eager, graph, onnx = content["points"]
    assert ceiling["gemm_fp32_tflops"] > 0
    assert [eager["lane"], graph["lane"], onnx["lane"]] == lanes
    assert graph["missing"] == "a CUDA graph needs a GPU"
    assert min(eager["tiles_per_s"], onnx["tiles_per_s"]) > 0
    assert content["ratios"] == {"smoke_segment_fp32_share_of_gemm": max(eager["share_of_gemm"], onnx["share_of_gemm"])}
