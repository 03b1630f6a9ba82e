"""Arithmetic of an ONNX graph: multiplications with additions of its convolutions and matrix products. Runs nothing.

What is left out (activations, normalization, resizing) is one operation per value where these are hundreds: below 2 % in the networks here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from .errors import BenchError

Dims = tuple[int, ...]


@dataclass(frozen=True)
class Arithmetic:
    """Of one tile.

    Attributes:
        flops: 2 for each multiply-accumulate.
        by_operator: the same, by ONNX's operator.
        weight_bytes: of the constants, read once per batch at least.
    """

    flops: int
    by_operator: Mapping[str, int]
    weight_bytes: int


def count_arithmetic(path: Path) -> Arithmetic:
    """Of one tile through the graph; its batch is taken as 1.

    Raises:
        BenchError: a shape that is needed cannot be inferred.
    """
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = _shapes(graph)
    counts: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _COUNTED:
            try:
                counts[node.op_type] = counts.get(node.op_type, 0) + 2 * _COUNTED[node.op_type](node, shapes)
            except KeyError as error:
                raise BenchError(
                    f"{path}: node {node.name!r} ({node.op_type}): expected a known shape of {error}, got none: export with static shapes"
                ) from error
    weight_bytes = sum(
        math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize for tensor in graph.initializer
    )
    return Arithmetic(sum(counts.values()), counts, weight_bytes)


def _shapes(graph: onnx.GraphProto) -> dict[str, Dims]:
    """Those that are known to the last number."""
    found: dict[str, Dims] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _conv(node: onnx.NodeProto, shapes: Mapping[str, Dims]) -> int:
    """Each output value sums over the kernel and its group's input channels: the kernel (out, in / groups, …) holds both."""
    _, *rest = shapes[node.input[1]]
    return math.prod(shapes[node.output[0]]) * math.prod(rest)


def _transposed(node: onnx.NodeProto, shapes: Mapping[str, Dims]) -> int:
    """Each input value goes to the kernel's places of its group's output channels: the kernel is (in, out / groups, …)."""
    _, *rest = shapes[node.input[1]]
    return math.prod(shapes[node.input[0]]) * math.prod(rest)


def _matmul(node: onnx.NodeProto, shapes: Mapping[str, Dims]) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _gemm(node: onnx.NodeProto, shapes: Mapping[str, Dims]) -> int:
    is_transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if is_transposed else 1]


_COUNTED = {"Conv": _conv, "ConvTranspose": _transposed, "MatMul": _matmul, "Gemm": _gemm, "ConvInteger": _conv, "MatMulInteger": _matmul}
