"""Writes as constants what a graph computes from its weights or from the batch's size alone: engines fuse no better than shapes let them.

torch leaves some of that: positions expanded to the batch, grids for `Resize`, whole tables of Swin's attention. Knows no task and no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from .runtime import Graph

BATCH = "batch"  # name of the one dynamic axis
_PROBES = (2, 3)  # what is the same at both does not depend on the batch; what grows with them is proportional to it
_BIG_BYTES = 8 << 20  # a constant larger than this is written only where it replaces as much
_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Where", "And", "Or", "Min", "Max", "Pow", "Equal", "Less", "Greater"})

Array = npt.NDArray[Any]
Dims = tuple[int | str, ...]


def fold(model: onnx.ModelProto) -> None:
    """Fold in place; what cannot be folded safely stays, and `to_onnx.check_graph` refuses it.

    A tensor that only repeats itself along the batch becomes one row where every reader broadcasts it.
    """
    _scale_resizes(model.graph)
    _sweep(model.graph)
    probes = _Probes(model)
    frontier = probes.frontier()
    first, second = (probes.evaluate(frontier, batch) for batch in _PROBES)
    readers = _Readers(model.graph, probes.dims)
    constants: dict[str, Array] = {}
    for name in frontier:
        replacement = readers.replacement(name, first[name], second[name])
        if replacement is not None and replacement.nbytes <= max(_BIG_BYTES, probes.weight_bytes(name)):
            constants[name] = replacement
    _write(model.graph, constants)
    _sweep(model.graph)


def batch_multiple(dim: int | str) -> int | None:
    """k of a dimension that torch calls "k*batch"; None for a number and for any other name."""
    if isinstance(dim, int):
        return None
    factors = [factor.strip() for factor in dim.split("*")]
    numbers = [factor for factor in factors if factor != BATCH]
    is_multiple = len(factors) - len(numbers) == 1 and all(number.isdigit() for number in numbers)
    return int(np.prod([int(number) for number in numbers])) if is_multiple else None


class _Probes:
    """The part of a graph that no pixel reaches.

    Attributes:
        dims: each tensor's dimensions as torch noted them.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = self._graph = model.graph
        self._versions = {"opset_imports": model.opset_import, "ir_version": model.ir_version}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        values = (*graph.value_info, *graph.input, *graph.output)
        self.dims: dict[str, Dims] = {value.name: _dims(value) for value in values}
        self._known = set(self._weights)
        self._nodes: list[NodeProto] = []  # in the graph's order
        for node in graph.node:
            if self._is_shape(node) or (node.op_type != "Shape" and all(not name or name in self._known for name in node.input)):
                self._nodes.append(node)
                self._known.update(node.output)
        self._makers = {name: node for node in self._nodes for name in node.output}

    def _is_shape(self, node: NodeProto) -> bool:
        """Of a tensor whose dimensions are numbers and multiples of the batch."""
        dims = self.dims.get(node.input[0]) if node.op_type == "Shape" else None
        return dims is not None and all(isinstance(dim, int) or batch_multiple(dim) is not None for dim in dims)

    def frontier(self) -> list[str]:
        """What that part hands to the rest."""
        inner = {id(node) for node in self._nodes}
        read = {name for node in self._graph.node if id(node) not in inner for name in node.input}
        return sorted(read & set(self._makers))

    def evaluate(self, wanted: list[str], batch: int) -> dict[str, Array]:
        """The wanted tensors for that batch."""
        if not wanted:
            return {}
        shapes = {node.output[0]: self._shape_value(node, batch) for node in self._nodes if node.op_type == "Shape"}
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [len(value)]) for name, value in shapes.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in wanted]
        nodes = [node for node in self._nodes if node.op_type != "Shape"]
        read = {name for node in nodes for name in node.input}
        graph = helper.make_graph(nodes, "probe", inputs, outputs, [tensor for name, tensor in self._weights.items() if name in read])
        return Graph(helper.make_model(graph, **self._versions)).run(shapes)

    def weight_bytes(self, name: str) -> int:
        """Bytes of the weights that a tensor is made of."""
        waiting, seen, total = [name], {name}, 0
        while waiting:
            current = waiting.pop()
            if current in self._weights:
                total += numpy_helper.to_array(self._weights[current]).nbytes
            elif current in self._makers and self._makers[current].op_type != "Shape":
                fresh = {needed for needed in self._makers[current].input if needed} - seen
                waiting += fresh
                seen |= fresh
        return total

    def _shape_value(self, node: NodeProto, batch: int) -> Array:
        numbers = [dim if isinstance(dim, int) else (batch_multiple(dim) or 0) * batch for dim in self.dims[node.input[0]]]
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        return np.array(numbers[bounds.get("start", 0) : bounds.get("end", len(numbers))], dtype=np.int64)


class _Readers:
    """Who reads a tensor, and which constant all of them can read instead."""

    def __init__(self, graph: onnx.GraphProto, dims: Mapping[str, Dims]) -> None:
        self._nodes = list(graph.node)
        self._dims = dims
        self._served = {value.name for value in graph.output}

    def replacement(self, name: str, first: Array, second: Array) -> Array | None:
        """Of a tensor with these values at the two probes; None where a reader needs the batch's size itself."""
        if name in self._served:
            return None
        if first.shape == second.shape and np.array_equal(first, second, equal_nan=first.dtype.kind == "f"):
            return first
        readers = [(node, index) for node in self._nodes for index, read in enumerate(node.input) if read == name]
        if first.shape == second.shape and first.dtype == np.int64 and first.ndim == 1:
            return self._shape(readers, first, second)
        return self._row(readers, first, second)

    def _shape(self, readers: list[tuple[NodeProto, int]], first: Array, second: Array) -> Array | None:
        """A shape with one entry that follows the batch: -1 to `Reshape`, 1 to `Expand` of what has the batch already."""
        varying = np.flatnonzero(first != second).tolist()
        kinds = {node.op_type for node, _ in readers}
        shape = first.copy()
        if kinds == {"Reshape"} and len(varying) == 1 and not np.any(first == -1):
            shape[varying] = -1
            return shape
        if kinds == {"Expand"} and all(self._follows_batch(node.input[0], len(shape) - at) for node, _ in readers for at in varying):
            shape[varying] = 1
            return shape
        return None

    def _row(self, readers: list[tuple[NodeProto, int]], first: Array, second: Array) -> Array | None:
        """One row of a tensor that only repeats itself along the batch, where all readers broadcast it against a whole batch."""
        axes = [axis for axis, sides in enumerate(zip(first.shape, second.shape, strict=True)) if sides[0] != sides[1]]
        if len(axes) != 1:
            return None
        row = np.take(second, [0], axis=axes[0])
        if not np.array_equal(np.broadcast_to(row, second.shape), second):
            return None
        from_right = second.ndim - axes[0]
        for node, index in readers:
            others = [name for at, name in enumerate(node.input) if at != index]
            if node.op_type not in _BROADCASTING or not any(self._follows_batch(name, from_right) for name in others):
                return None
        return row

    def _follows_batch(self, name: str, from_right: int) -> bool:
        dims = self._dims.get(name, ())
        return len(dims) >= from_right and batch_multiple(dims[len(dims) - from_right]) is not None


def _scale_resizes(graph: onnx.GraphProto) -> None:
    """`Resize` to sizes that name the batch → by the factor they mean, where float32 holds it exactly."""
    weights = {tensor.name for tensor in graph.initializer}
    dims = {value.name: _dims(value) for value in graph.value_info}
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) < 4 or node.input[3] in weights:
            continue
        sides = list(zip(dims.get(node.input[0], ()), dims.get(node.output[0], ()), strict=False))
        factors = [
            1.0 if before == after else after / before for before, after in sides if isinstance(before, int) and isinstance(after, int)
        ]
        scales = np.array([1.0, *factors], dtype=np.float32)
        if len(factors) != len(sides) - 1 or sides[0][0] != sides[0][1] or scales[1:].tolist() != factors:
            continue
        name = f"{node.output[0]}_scales"
        graph.initializer.append(numpy_helper.from_array(scales, name))
        node.input[:] = [node.input[0], "", name]


def _write(graph: onnx.GraphProto, constants: Mapping[str, Array]) -> None:
    """Put constants in the place of the nodes that made them; their notes told other dimensions."""
    kept = [node for node in graph.node if not set(node.output) <= set(constants)]
    noted = [value for value in graph.value_info if value.name not in constants]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    graph.value_info.extend(noted)
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items())


def _sweep(graph: onnx.GraphProto) -> None:
    """Drop nodes, weights and notes that nothing needs any more."""
    read = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    noted = [value for value in graph.value_info if value.name in read]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)
    graph.value_info.extend(noted)


def _dims(value: onnx.ValueInfoProto) -> Dims:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
