"""Engines without TensorRT: names, profiles, command lines, what the inspector's JSON proves, and the refusals. With `gpu`: a real build."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.errors import EngineError, GraphError
from export.tensorrt_engine import (
    BatchProfile,
    build_engine,
    engine_name,
    gpu_name,
    load_tensorrt,
    parse_gpu_names,
    timing_cache_path,
    trtexec_command,
    write_atomically,
)
from export.tensorrt_layers import asked_types, check_layers, parse_layers
from export.to_onnx import OPSET
from serving.modelconfig import Tensor

TILE = Tensor("TILE", "TYPE_UINT8", (224, 224, 3))
SCORES = Tensor("NET_SCORES", "TYPE_FP32", (4,))
SHA = "0123456789abcdef" * 4


def convolutions(count: int, kind: int = TensorProto.FLOAT16, size: int = 16) -> onnx.ModelProto:
    """TILE → cast, permute, `count` convolutions of a type, named conv0, conv1…, cast → LABELS."""
    dtype = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    weights = [numpy_helper.from_array(np.full((3, 3, 3, 3), 0.01, dtype), f"weight{index}") for index in range(count)]
    nodes = [
        helper.make_node("Cast", ["TILE"], ["numbers"], "first", to=kind),
        helper.make_node("Transpose", ["numbers"], ["x0"], "planes", perm=[0, 3, 1, 2]),
        *(helper.make_node("Conv", [f"x{i}", f"weight{i}"], [f"x{i + 1}"], f"conv{i}", pads=[1] * 4) for i in range(count)),
        helper.make_node("Cast", [f"x{count}"], ["LABELS"], "last", to=TensorProto.UINT8),
    ]
    ends = [
        helper.make_tensor_value_info("TILE", TensorProto.UINT8, ["batch", size, size, 3]),
        helper.make_tensor_value_info("LABELS", TensorProto.UINT8, ["batch", 3, size, size]),
    ]
    graph = helper.make_graph(nodes, "convolutions", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def test_the_name_says_what_an_engine_runs_on() -> None:
    profile = BatchProfile(1, 16, 64)
    name = engine_name(SHA, "10.12.0.36", "NVIDIA H100 80GB HBM3", profile)
    assert name == "0123456789abcdef-trt10.12.0.36-nvidia-h100-80gb-hbm3-b1-16-64.plan"
    others = {
        engine_name("f" + SHA[1:], "10.12.0.36", "NVIDIA H100 80GB HBM3", profile),
        engine_name(SHA, "11.4.0.106", "NVIDIA H100 80GB HBM3", profile),
        engine_name(SHA, "10.12.0.36", "NVIDIA L4", profile),
        engine_name(SHA, "10.12.0.36", "NVIDIA H100 80GB HBM3", BatchProfile(1, 64, 64)),
    }
    assert len(others | {name}) == 5


def test_a_timing_cache_belongs_to_a_gpu_and_a_version_but_not_to_a_graph() -> None:
    assert timing_cache_path(Path("engines"), "11.4.0.106", "NVIDIA L4") == Path("engines/timing-trt11.4.0.106-nvidia-l4.cache")


def test_the_profile_of_a_signature() -> None:
    profile = BatchProfile(1, 16, 64)
    assert profile.shapes((TILE, SCORES)) == {
        "TILE": ((1, 224, 224, 3), (16, 224, 224, 3), (64, 224, 224, 3)),
        "NET_SCORES": ((1, 4), (16, 4), (64, 4)),
    }
    assert profile.texts((TILE, SCORES)) == (
        "TILE:1x224x224x3,NET_SCORES:1x4",
        "TILE:16x224x224x3,NET_SCORES:16x4",
        "TILE:64x224x224x3,NET_SCORES:64x4",
    )


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 4), (1, 8, 4)])
def test_a_profile_out_of_order(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(EngineError, match="expected 1 ≤ min ≤ opt ≤ max"):
        BatchProfile(*sizes)


def test_the_command_line_of_the_same_engine() -> None:
    command = trtexec_command(Path("model.onnx"), Path("model.plan"), Path("timing.cache"), (TILE,), BatchProfile(1, 16, 64))
    assert command == [
        "trtexec",
        "--onnx=model.onnx",
        "--stronglyTyped",
        "--minShapes=TILE:1x224x224x3",
        "--optShapes=TILE:16x224x224x3",
        "--maxShapes=TILE:64x224x224x3",
        "--builderOptimizationLevel=5",
        "--memPoolSize=workspace:4096M",
        "--noTF32",
        "--timingCacheFile=timing.cache",
        "--profilingVerbosity=detailed",
        "--exportLayerInfo=model.plan.json",
        "--saveEngine=model.plan",
    ]


def test_without_tensorrt_the_refusal_says_package_versions_and_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # Python's own way of saying that there is none
    with pytest.raises(EngineError) as caught:
        build_engine(convolutions(1, size=224), (TILE,), BatchProfile(1, 16, 64), tmp_path)
    text = str(caught.value)
    assert "expected the package tensorrt>=10.12,<12, it cannot be imported here" in text
    assert "on the machine with the GPU, pip install 'tensorrt>=10.12,<12' and call again" in text
    assert "trtexec --onnx=model.onnx --stronglyTyped --minShapes=TILE:1x224x224x3 --optShapes=TILE:16x224x224x3" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["10.11.0.33", "8.6.1", "12.0.0"])
def test_another_version_of_tensorrt(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__=version))
    with pytest.raises(EngineError, match=rf"expected the package tensorrt>=10\.12,<12, got {version}: .*trtexec"):
        load_tensorrt("trtexec")


def test_a_graph_that_breaks_the_rules_is_refused_before_tensorrt_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    model = convolutions(1)
    model.graph.node.append(helper.make_node("Shape", ["x1"], ["sizes"], "residue"))
    with pytest.raises(GraphError, match="Shape 'residue'"):
        build_engine(model, (TILE,), BatchProfile(), tmp_path)


def test_the_gpu_of_nvidia_smi() -> None:
    assert parse_gpu_names("NVIDIA L4\nNVIDIA L4\n") == "NVIDIA L4"
    with pytest.raises(EngineError, match="expected GPUs of one kind, got \\['NVIDIA A10', 'NVIDIA L4'\\]"):
        parse_gpu_names("NVIDIA L4\nNVIDIA A10\n")
    with pytest.raises(EngineError, match="got \\[\\]"):
        parse_gpu_names("\n")


def test_a_machine_without_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"expected a GPU, but nvidia-smi .* failed .*: build on the machine that serves"):
        gpu_name()


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "engines" / "a.plan"
    write_atomically(path, b"first")

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"second")
    assert [(file.name, file.read_bytes()) for file in path.parent.iterdir()] == [("a.plan", b"first")]


# --- what the inspector says -------------------------------------------------------------------------------------------------------------


def test_types_that_a_graph_asks_for() -> None:
    assert asked_types(convolutions(2)) == {"conv0": "FLOAT16", "conv1": "FLOAT16"}
    assert asked_types(convolutions(1, TensorProto.FLOAT)) == {"conv0": "FLOAT"}


def test_a_quantized_operator_asks_for_int8() -> None:
    model = convolutions(1, TensorProto.FLOAT)
    scale = [numpy_helper.from_array(np.array(0.1, np.float32), "scale"), numpy_helper.from_array(np.array(0, np.int8), "zero")]
    model.graph.initializer.extend(scale)
    model.graph.node[2].input[0] = "dequantized"
    model.graph.node.insert(2, helper.make_node("QuantizeLinear", ["x0", "scale", "zero"], ["quantized"], "quantize"))
    model.graph.node.insert(3, helper.make_node("DequantizeLinear", ["quantized", "scale", "zero"], ["dequantized"], "dequantize"))
    assert asked_types(model) == {"conv0": "INT8"}


def test_a_nameless_operator_cannot_be_found_again() -> None:
    model = convolutions(1)
    model.graph.node[2].name = ""
    with pytest.raises(EngineError, match="expected a name of its own for each Conv"):
        asked_types(model)


# The example of TensorRT 10's documentation of the engine inspector, shortened, with the metadata that the parser's layers carry.
DOCUMENTED_10 = """{"Layers": [{
  "Name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1",
  "LayerType": "CaskConvolution",
  "Inputs": [{"Name": "gpu_0/res3_3_branch2c_bn_3", "Dimensions": [16,512,28,28],
              "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
  "Outputs": [{"Name": "gpu_0/res4_0_branch2a_bn_2", "Dimensions": [16,256,28,28],
               "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}],
  "ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 131072},
  "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
  "Metadata": "[ONNX Layer: res4_0_branch2a_1]\x1e[ONNX Layer: res4_0_branch2a_bn_1]"
}], "Bindings": ["gpu_0/data_0"]}"""


def test_layers_as_tensorrt_10_describes_them() -> None:
    (layer,) = parse_layers(DOCUMENTED_10)
    assert layer.onnx_nodes == ("res4_0_branch2a_1", "res4_0_branch2a_bn_1")
    assert layer.data_types == {"INT8"}


@pytest.mark.parametrize(
    ("tensor", "data_type"),
    [
        ({"Format/Datatype": "Half"}, "FLOAT16"),
        ({"Format/Datatype": "Row major linear FP16 format"}, "FLOAT16"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 4 == 0"}, "FLOAT16"),
        ({"Format/Datatype": "Row major linear FP32"}, "FLOAT"),
        ({"Format/Datatype": "Float"}, "FLOAT"),
        ({"Format/Datatype": "UInt8"}, "UINT8"),
        ({"Format/Datatype": "BFloat16"}, "BFLOAT16"),
        ({"Format": "Row major linear FP32 format (kLINEAR)", "Datatype": "Half"}, "FLOAT16"),  # 11: the field of the type alone counts
        ({"Format": "kLINEAR", "DataType": "Float"}, "FLOAT"),
    ],
)
def test_words_for_types(tensor: dict[str, str], data_type: str) -> None:
    (layer,) = parse_layers(json.dumps({"Layers": [{"Name": "one", "Inputs": [{"Name": "in", **tensor}], "Outputs": []}]}))
    assert layer.data_types == {data_type}


@pytest.mark.parametrize("described", ["N/A due to dynamic shapes", "", "Float and Half", "Complex64"])
def test_a_type_that_cannot_be_told_is_an_error(described: str) -> None:
    text = json.dumps({"Layers": [{"Name": "one", "Inputs": [{"Name": "in", "Format/Datatype": described}]}]})
    with pytest.raises(EngineError, match=r"layer 'one': expected tensor 'in' to have one known type, got .*set every input's shape"):
        parse_layers(text)


def test_names_alone_are_an_error() -> None:
    with pytest.raises(EngineError, match=r"got the name 'conv0' alone: build with ProfilingVerbosity\.DETAILED"):
        parse_layers('{"Layers": ["conv0"]}')
    with pytest.raises(EngineError, match="expected JSON with Layers"):
        parse_layers("Layers:\nconv0")


def inspected(types: dict[str, str]) -> str:
    """The JSON of an engine with one layer per node, in the form of TensorRT 11."""
    layers = [
        {
            "Name": f"{node}_myl0_{index}",
            "LayerType": "conv",
            "Inputs": [{"Name": "in", "Format": "kLINEAR", "Datatype": kind}],
            "Outputs": [{"Name": "out", "Format": "kLINEAR", "Datatype": kind}],
            "Metadata": f"[ONNX Layer: {node}]",
        }
        for index, (node, kind) in enumerate(types.items())
    ]
    return json.dumps({"Layers": layers, "I/O Tensors": []})


ASKED = asked_types(convolutions(20))


def test_an_engine_in_the_types_of_its_graph() -> None:
    report = check_layers("good", ASKED, inspected(dict.fromkeys(ASKED, "Half")))
    assert (report.total, dict(report.asked), report.wrong, report.missing) == (20, {"FLOAT16": 20}, (), ())


def test_silent_float32_is_refused() -> None:
    """What TensorRT 11 does with an FP16 flag that is gone: the build succeeds (rf-detr#1453)."""
    with pytest.raises(EngineError, match=r"engine 'slow': 20 of 20 .*conv0 asked for FLOAT16, its layer has \['FLOAT'\]"):
        check_layers("slow", ASKED, inspected(dict.fromkeys(ASKED, "Float")))


def test_a_float32_graph_must_not_be_halved_either() -> None:
    asked = asked_types(convolutions(3, TensorProto.FLOAT))
    with pytest.raises(EngineError, match=r"conv0 asked for FLOAT, its layer has \['FLOAT16'\]"):
        check_layers("half", asked, inspected(dict.fromkeys(asked, "Half")))


def test_one_of_twenty_may_hide_behind_its_cast_and_two_may_not() -> None:
    types = dict.fromkeys(ASKED, "Half")
    assert check_layers("good", ASKED, inspected(types | {"conv0": "Float"})).wrong == ("conv0",)
    with pytest.raises(EngineError, match="2 of 20"):
        check_layers("slow", ASKED, inspected(types | {"conv0": "Float", "conv1": "Float"}))


def test_an_engine_whose_operators_cannot_be_found_is_refused() -> None:
    half = dict.fromkeys(ASKED, "Half")
    found = {node: kind for node, kind in half.items() if node not in ("conv1", "conv2")}
    assert check_layers("good", ASKED, inspected(found)).missing == ("conv1", "conv2")
    with pytest.raises(EngineError, match=r"its 20 computing operators among the layers, 3 are missing \(conv1, conv2, conv3, …\)"):
        check_layers("opaque", ASKED, inspected({node: kind for node, kind in found.items() if node != "conv3"}))


# --- with TensorRT and a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16], ids=["fp32", "fp16"])
def test_builds_an_engine_once(tmp_path: Path, kind: int) -> None:
    model, inputs, profile = convolutions(4, kind), (Tensor("TILE", "TYPE_UINT8", (16, 16, 3)),), BatchProfile(1, 4, 8)
    engine = build_engine(model, inputs, profile, tmp_path)
    assert engine.path.name.endswith("-b1-4-8.plan")
    assert engine.report.wrong == ()
    assert len(list(tmp_path.glob("timing-trt*.cache"))) == 1
    written = engine.path.stat().st_mtime_ns
    assert build_engine(model, inputs, profile, tmp_path) == engine
    assert engine.path.stat().st_mtime_ns == written
