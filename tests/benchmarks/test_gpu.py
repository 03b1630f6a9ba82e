"""`benchmarks/gpu.sh` on a CPU with tiny sizes: that it runs, and tells what it cannot run. Its figures mean nothing here."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_ceiling import copy_gb_s, gemm_tflops, seconds_of
from benchmarks.gpu_lanes import LANES, LaneMissing, Prepare, Wheels
from benchmarks.gpu_networks import Network, make_network, write_onnx
from benchmarks.gpu_triton import require_provider, serve_graph
from benchmarks.gpu_triton_environment import name_onnxruntime, read_requirements
from export.canary import canary_tiles
from export.runtime import Graph
from serving.triton_install import SERVING_FOLDER, TritonInstall

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
        with pytest.raises(LaneMissing, match="needs a GPU"), LANES[lane](network, CPU, Wheels()) as prepare:
            prepare(1)


def test_a_lane_that_does_not_open_is_told_for_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("smoke", "cam", "fp32", CPU)

    @contextmanager
    def broken(network: Network, device: torch.device, wheels: Wheels) -> Iterator[Prepare]:
        raise ValueError(f"no server for {network.name}")
        yield

    monkeypatch.setitem(LANES, "triton", broken)
    ceiling = {"gemm_fp32_tflops": 1.0}
    points = [*gpu._lane_points(network, "triton", (1, 4), Wheels(), CPU, ceiling, 1)]
    assert [(point["batch"], point["failed"]) for point in points] == [
        (1, "ValueError: no server for smoke"),
        (4, "ValueError: no server for smoke"),
    ]


def test_a_call_of_several_batches_is_counted_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make_network("smoke", "cam", "fp32", CPU)

    class Call:
        batches = 4

        def __call__(self) -> None: ...

    asked: list[int] = []

    def two_seconds(call: Call, device: torch.device, repeats: int) -> float:
        asked.append(repeats)
        return 2.0

    monkeypatch.setattr(gpu, "seconds_of", two_seconds)
    point = gpu._point(network, "triton", 8, lambda batch: Call(), CPU, {"gemm_fp32_tflops": 1.0}, 20)
    assert asked == [5]
    assert (point["ms"], point["tiles_per_s"]) == (500.0, 16.0)


def test_tritons_environment_is_told_missing(tmp_path: Path) -> None:
    network = make_network("smoke", "segment", "fp32", CPU)
    wheel = tmp_path / "w.whl"
    wheel.touch()
    for wheels, reason in (
        (Wheels(triton=tmp_path / "none"), "expected its environment in .*none, found none.*give --triton"),
        (
            Wheels(triton_wheel=wheel, onnxruntime_wheel=tmp_path / "o.whl"),
            r"--onnxruntime-wheel .*o\.whl: expected a wheel, found no such file",
        ),
    ):
        with pytest.raises(LaneMissing, match=reason), LANES["triton"](network, CPU, wheels):
            pass


def test_an_onnxruntime_without_the_device_is_told(tmp_path: Path) -> None:
    """An interpreter whose onnxruntime says what it was built with."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 1.2.3 AzureExecutionProvider CPUExecutionProvider\n")
    python.chmod(0o755)
    install = TritonInstall(tmp_path, tmp_path, "3.11", tmp_path, python=python)
    require_provider(install, "CPUExecutionProvider")
    with pytest.raises(LaneMissing, match=r"onnxruntime 1\.2\.3 is without CUDAExecutionProvider: give --onnxruntime-wheel"):
        require_provider(install, "CUDAExecutionProvider")


def test_a_gpus_wheel_is_known_by_the_packages_name(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    with pytest.raises(LaneMissing, match="expected ONNX Runtime out of its wheel"):
        name_onnxruntime(tmp_path)
    (packages / "onnxruntime_gpu-1.31.0.dist-info").mkdir()
    name_onnxruntime(tmp_path)
    (named,) = importlib.metadata.distributions(name="onnxruntime", path=[str(packages)])
    assert named.version == "1.31.0"


def test_the_stubs_other_packages_are_those_that_are_served_with() -> None:
    found = read_requirements(SERVING_FOLDER / "embedded-requirements.txt")
    assert "numpy==1.26.4" in found
    assert not [line for line in found if line.startswith(("onnxruntime", "openvino", "#"))]


def test_one_wheel_alone_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--triton-wheel", "a.whl"])
    assert "expected both or neither" in capsys.readouterr().err


@pytest.mark.slow
def test_fp16_is_exported_with_the_same_weights(tmp_path: Path) -> None:
    half, full = (make_network("smoke", "segment", precision, CPU) for precision in ("fp16", "fp32"))
    for network in (half, full):
        write_onnx(network, tmp_path / f"{network.precision}.onnx")
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "fp16.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types
    assert (tmp_path / "fp16.onnx").stat().st_size < 0.6 * (tmp_path / "fp32.onnx").stat().st_size
    tiles = {"TILE": canary_tiles(224)}
    first, second = (Graph(onnx.load(tmp_path / f"{name}.onnx")).run(tiles)["PROBABILITIES"].astype(int) for name in ("fp16", "fp32"))
    assert np.abs(first - second).max() <= 8
    assert second.std() > 0


@pytest.mark.triton
@pytest.mark.slow
def test_the_backend_answers_as_the_graph_does(tmp_path: Path) -> None:
    network = make_network("smoke", "segment", "fp32", CPU)
    write_onnx(network, tmp_path / "model.onnx")
    graph = (tmp_path / "model.onnx").read_bytes()
    tiles = np.random.default_rng(3).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    with serve_graph(network, lambda: graph, "cpu", None) as calls:
        answers = calls(tiles)()
    expected = Graph(onnx.load_from_string(graph)).run({"TILE": tiles})
    assert len(answers) == 4
    for answer in answers:
        levels = answer.as_numpy("PROBABILITIES").astype(int)
        assert np.abs(levels - expected["PROBABILITIES"].astype(int)).max() <= 1
        assert (answer.as_numpy("LABELS") == expected["LABELS"]).mean() > 0.99


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


@pytest.mark.triton
@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path: Path) -> None:
    lanes = ["torch-eager", "cuda-graph", "onnxruntime", "triton"]  # compiling takes longer than a test may
    assert gpu.main(["--device", "cpu", "--smoke", "--lanes", *lanes, "--output", str(tmp_path / "gpu.json")]) == 0
    content = json.loads((tmp_path / "gpu.json").read_text())
    ceiling, eager, graph, session, served = content["points"]
    assert ceiling["gemm_fp32_tflops"] > 0
    assert [eager["lane"], graph["lane"], session["lane"], served["lane"]] == lanes
    assert graph["missing"] == "a CUDA graph needs a GPU"
    measured = (eager, session, served)
    assert all(point["tiles_per_s"] > 0 for point in measured), measured
    assert content["ratios"] == {"smoke_segment_fp32_share_of_gemm": max(point["share_of_gemm"] for point in measured)}
