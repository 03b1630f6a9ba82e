"""Which engine and how many threads, read from the configuration as Triton hands it over."""

from __future__ import annotations

from typing import Any

import pytest

from .backend import backend_module

choice = backend_module("engine_choice")
FORCED = {"HISTOSERVE_ENGINE": "onnxruntime"}


def config(accelerator: str | None = None, gpu: str | None = None, level: int | None = None, **parameters: str) -> dict[str, Any]:
    accelerators: dict[str, Any] = {}
    if accelerator is not None:
        accelerators["cpu_execution_accelerator"] = [{"name": accelerator, "parameters": {}}]
    if gpu is not None:
        accelerators["gpu_execution_accelerator"] = [{"name": gpu, "parameters": {}}]
    optimization: dict[str, Any] = {"execution_accelerators": accelerators} if accelerators else {}
    if level is not None:
        optimization["graph"] = {"level": level}
    return {"optimization": optimization, "parameters": {key: {"string_value": value} for key, value in parameters.items()}}


@pytest.mark.parametrize(
    ("given", "environment", "has_openvino", "engine", "reason"),
    [
        (config(), {}, True, "openvino", "it is installed beside the server"),
        (config(), {}, False, "onnxruntime", "openvino is not installed beside the server"),
        (config("openvino"), {}, True, "openvino", "config.pbtxt names it as accelerator"),
        (config("openvino"), FORCED, True, "onnxruntime", "$HISTOSERVE_ENGINE says so"),
        (config(), {"HISTOSERVE_ENGINE": ""}, True, "openvino", "it is installed beside the server"),
        (config(histoserve_engine="onnxruntime"), {}, True, "onnxruntime", "config.pbtxt says so (histoserve_engine)"),
        (config(level=1), {}, True, "onnxruntime", "config.pbtxt sets optimization.graph.level 1, which only it has"),
        ({}, {}, True, "openvino", "it is installed beside the server"),
    ],
)
def test_the_engine_and_why(given: Any, environment: dict[str, str], has_openvino: bool, engine: str, reason: str) -> None:
    chosen = choice.choose(given, environment, has_openvino)
    assert (chosen.engine, chosen.reason) == (engine, reason)


def test_threads_and_level_are_the_configurations() -> None:
    chosen = choice.choose(config(level=-1, intra_op_thread_count="3", inter_op_thread_count="2"), {}, True)
    assert (chosen.threads, chosen.inter_op_threads, chosen.graph_level) == (3, 2, -1)
    chosen = choice.choose(config(), {}, True)
    assert (chosen.threads, chosen.inter_op_threads, chosen.graph_level) == (0, 1, 0)


@pytest.mark.parametrize(
    ("given", "environment", "has_openvino", "message"),
    [
        (config("openvino"), {}, False, r"expected the package openvino \(config\.pbtxt names it as accelerator\), it is not installed"),
        (config(gpu="tensorrt"), {}, True, "expected no accelerator of the GPU, got tensorrt: this Triton runs on the CPU alone"),
        (config(gpu="tensorrt"), FORCED, True, "expected no accelerator of the GPU"),
        (config("dnnl"), {}, True, "expected the accelerator openvino or none, got dnnl"),
        (config(), {"HISTOSERVE_ENGINE": "tvm"}, True, r"expected \$HISTOSERVE_ENGINE to be onnxruntime or nothing, got 'tvm'"),
        (config(histoserve_engine="tvm"), {}, True, "expected the parameter histoserve_engine to be onnxruntime or not there, got 'tvm'"),
        (config("openvino", histoserve_engine="onnxruntime"), {}, True, "got both"),
        (config("openvino", level=2), {}, True, r"expected optimization\.graph\.level with ONNX Runtime alone, got 2 with OpenVINO"),
        (config(level=3), {}, True, r"expected optimization\.graph\.level of -1 .* got 3"),
        (config(intra_op_thread_count="-1"), {}, True, r"expected intra_op_thread_count of 0 \(every core\) or more, got '-1'"),
    ],
)
def test_what_cannot_be_is_refused(given: Any, environment: dict[str, str], has_openvino: bool, message: str) -> None:
    with pytest.raises(choice.ChoiceError, match=message):
        choice.choose(given, environment, has_openvino)
