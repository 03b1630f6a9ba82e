"""Arithmetic of graphs that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.bench.errors import BenchError
from benchmarks.bench.flops import count_arithmetic


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], given: list[int | str], out: str = "y") -> Path:
    constants = [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)]
    outputs = [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, constants), opset_imports=[helper.make_opsetid("", 18)]), path
    )
    return path


def test_a_convolution_is_its_kernel_at_every_output_value(tmp_path: Path) -> None:
    """3×3, 4 → 8 channels, stride 2, on 10×6: 5×3 places × 8 × 4 × 9 products."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[2, 2], pads=[1, 1, 1, 1])
    found = count_arithmetic(save(tmp_path / "m.onnx", [node], {"w": (8, 4, 3, 3)}, ["batch", 4, 10, 6]))
    assert found.flops == 2 * 5 * 3 * 8 * 4 * 9
    assert found.weight_bytes == 8 * 4 * 9 * 4


def test_groups_see_their_own_channels(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=4)
    found = count_arithmetic(save(tmp_path / "m.onnx", [node], {"w": (4, 1, 3, 3)}, ["batch", 4, 8, 8]))
    assert found.flops == 2 * 6 * 6 * 4 * 9


def test_a_transposed_convolution_is_its_kernel_at_every_input_value(tmp_path: Path) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])
    found = count_arithmetic(save(tmp_path / "m.onnx", [node], {"w": (4, 5, 2, 2)}, ["batch", 4, 3, 3]))
    assert found.flops == 2 * (4 * 3 * 3) * 5 * 4


def test_products_of_matrices_add_up_by_operator(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "b"], ["y"], transB=1),
    ]
    found = count_arithmetic(save(tmp_path / "m.onnx", nodes, {"a": (6, 7), "b": (3, 35)}, ["batch", 5, 6]))
    assert found.by_operator == {"MatMul": 2 * 5 * 7 * 6, "Gemm": 2 * 3 * 35}
    assert found.flops == 2 * 5 * 7 * 6 + 2 * 3 * 35


def test_a_shape_that_is_not_known_is_said(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="first")
    path = save(tmp_path / "m.onnx", [node], {"w": (8, 4, 3, 3)}, ["batch", 4, "height", "width"])
    with pytest.raises(BenchError, match=r"node 'first' \(Conv\): expected a known shape of 'y'"):
        count_arithmetic(path)
