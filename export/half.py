"""A graph in fp16: weights and activations between both ends, every change of precision an explicit Cast. Knows no engine.

TensorRT 11 takes the types as the graph states them (strong typing), hence no tensor's precision is left to the reader.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from .errors import GraphError, ParityError
from .ranges import HALF_LIMIT, float_tensors, measure_ranges, require_half_range
from .sensitive import SENSITIVE, find_ends
from .to_onnx import OPSET

_MOVES = frozenset(
    {"Concat", "Expand", "Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
)  # of values, which stay as they are
_ANY_PRECISION = frozenset({"Cast", "Shape", "Size"})  # their input may have any type: no Cast before them


def to_half(model: onnx.ModelProto, tiles: npt.NDArray[np.uint8], keep: Sequence[str] = SENSITIVE) -> onnx.ModelProto:
    """The graph with fp16 inside; inputs, outputs and both ends (`sensitive.Ends`) as they are.

    Args:
        model: the fp32 graph of a network.
        tiles: real tiles, uint8 (n, tile_px, tile_px, 3); the ranges are measured on them.
        keep: ONNX operator types that stay fp32 wherever they stand.

    Raises:
        GraphError: nothing of the graph can be fp16, or the converted graph is not valid.
        ParityError: fp16 cannot hold a weight, or an activation on one of the tiles.
    """
    name = model.graph.name
    if any(
        attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        for node in model.graph.node
        for attribute in node.attribute
    ):
        raise GraphError(f"graph {name!r}: expected no control flow, got a node with a graph of its own: it cannot be converted to fp16")
    conversion = _Conversion(model, _kept(model.graph, keep))
    half = conversion.run()
    if not conversion.half_tensors:
        raise GraphError(f"graph {name!r}: expected layers that can be fp16, got none between its ends")
    require_half_range(name, measure_ranges(model, tiles), conversion.half_tensors)
    try:
        onnx.checker.check_model(half, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"graph {name!r}: its fp16 form is not valid: {error}") from error
    return half


def _kept(graph: onnx.GraphProto, keep: Sequence[str]) -> frozenset[int]:
    """Indices of the nodes that stay fp32; those that make a served tensor do, and those whose operator, attribute or constant knows no fp16."""
    served = {value.name for value in graph.output}
    kept = {
        index
        for index, node in enumerate(graph.node)
        if node.op_type in keep or not served.isdisjoint(node.output) or not _can_be_half(node)
    }
    return frozenset(kept) | find_ends(graph).outer | _beside_unfit_constants(graph)


def _beside_unfit_constants(graph: onnx.GraphProto) -> frozenset[int]:
    """Nodes that read a single number fp16 cannot hold, and those that read their result.

    The 1e-12 that keeps a norm from 0 before it divides would become 0; the bounds of a mask, ±60,000 and −inf, are beyond the limit.
    """
    unfit = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT and _is_unfit(tensor)}
    carried: set[str] = set()
    found = set()
    for index, node in enumerate(graph.node):
        is_reader = not unfit.isdisjoint(node.input)
        if is_reader or not carried.isdisjoint(node.input):
            found.add(index)
            carried.update(node.output if is_reader or node.op_type in _MOVES else ())
    return frozenset(found)


def _is_unfit(tensor: TensorProto) -> bool:
    if np.prod(tensor.dims, dtype=int) != 1:
        return False  # single weights that vanish do not matter
    number = float(numpy_helper.to_array(tensor).item())
    return not abs(number) < HALF_LIMIT or (number != 0 and np.float16(number) == 0)


def _can_be_half(node: NodeProto) -> bool:
    schema = onnx.defs.get_schema(node.op_type, OPSET)
    holds_tensor = any(attribute.type == onnx.AttributeProto.TENSOR for attribute in node.attribute)
    return not holds_tensor and all("tensor(float16)" in formal.types or "tensor(float)" not in formal.types for formal in schema.outputs)


def _allows_half(node: NodeProto, index: int) -> bool:
    """Whether the operator takes fp16 at that input; Resize's scales are fp32 by definition."""
    formals = onnx.defs.get_schema(node.op_type, OPSET).inputs
    return "tensor(float16)" in formals[min(index, len(formals) - 1)].types  # the last one stands for all that follow


class _Conversion:
    """Rewrites the nodes in their order; a tensor keeps its name in the precision of the node that makes it.

    Attributes:
        half_tensors: names of the fp32 tensors that become fp16, be it for one reader.
    """

    def __init__(self, model: onnx.ModelProto, kept: frozenset[int]) -> None:
        self._model = model
        self._kept = kept
        self._weights = {tensor.name: tensor for tensor in model.graph.initializer}
        floats = {name for name, tensor in self._weights.items() if tensor.data_type == TensorProto.FLOAT}
        inputs = {value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._floats = floats | inputs | set(float_tensors(model))
        self._made_half: set[str] = set()
        self._copies: set[str] = set()  # of tensors, in their other precision
        self._nodes: list[NodeProto] = []
        self._half_weights: list[TensorProto] = []
        self.half_tensors: set[str] = set()

    def run(self) -> onnx.ModelProto:
        """The converted model; value_info is left out, since it would state the old types."""
        for index, node in enumerate(self._model.graph.node):
            self._add(node, is_half=index not in self._kept)
        half = onnx.ModelProto()
        half.CopyFrom(self._model)
        graph = half.graph
        for repeated in (graph.node, graph.initializer, graph.value_info):
            del repeated[:]
        graph.node.extend(self._nodes)
        read = {name for node in self._nodes for name in node.input}
        graph.initializer.extend(tensor for tensor in (*self._weights.values(), *self._half_weights) if tensor.name in read)
        return half

    def _add(self, node: NodeProto, is_half: bool) -> None:
        converted = NodeProto()
        converted.CopyFrom(node)
        if node.op_type not in _ANY_PRECISION:
            for index, name in enumerate(node.input):
                converted.input[index] = self._read(name, is_half and _allows_half(node, index))
        if is_half:
            if node.op_type == "Cast":
                _cast_to_half(converted)
            made = self._floats.intersection(node.output)
            self._made_half |= made
            self.half_tensors |= made
        self._nodes.append(converted)

    def _read(self, name: str, as_half: bool) -> str:
        """The name under which the tensor can be read in that precision; its copy is made once."""
        if name not in self._floats or as_half == (name in self._made_half):
            return name
        copy = f"{name}_{'half' if as_half else 'float'}"
        if copy not in self._copies:
            self._copies.add(copy)
            if name in self._weights:
                self._half_weights.append(_half_weight(self._model.graph.name, self._weights[name], copy))
            else:
                to = TensorProto.FLOAT16 if as_half else TensorProto.FLOAT
                self._nodes.append(helper.make_node("Cast", [name], [copy], name=f"cast_{copy}", to=to))
                self.half_tensors |= {name} if as_half else set()
        return copy


def _cast_to_half(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16


def _half_weight(graph: str, tensor: TensorProto, name: str) -> TensorProto:
    values = numpy_helper.to_array(tensor)
    largest = float(np.abs(values).max(initial=0))
    if not largest < HALF_LIMIT:
        raise ParityError(
            f"graph {graph!r}: expected every fp16 weight below {HALF_LIMIT:g}, got {tensor.name!r} that reaches {largest:.6g}. Export it in fp32"
        )
    return numpy_helper.from_array(values.astype(np.float16), name)
