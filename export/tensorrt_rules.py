"""Whether an ONNX graph keeps what TensorRT 10.12…11 needs beyond ONNX Runtime. Reads the graph alone: runs without TensorRT.

ONNX Runtime takes all that is refused here, so CPU tests do not find it (serving.md §4.3, §4.4).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from .errors import GraphError
from .tensorrt_operators import FLOATS, SHAPE_RESIDUE, SUPPORTED, WRONG_IN_TENSORRT, attributes, restriction, typed_input
from .to_onnx import OPSET

_LISTED = 8  # violations that an error spells out
_INT32 = np.iinfo(np.int32)
# Their range is cut to the axis by ONNX's definition: torch writes "to the end" as the largest int64.
_CLAMPED_INPUTS = {"Slice": (1, 2)}


@dataclass(frozen=True)
class Violation:
    """One place that breaks one rule.

    Attributes:
        place: the node's name or the tensor's.
        operator: ONNX's name; "" for a tensor.
        rule: what was expected and what came.
        remedy: what to change.
    """

    place: str
    operator: str
    rule: str
    remedy: str

    def __str__(self) -> str:
        place = f"{self.operator} {self.place!r}" if self.operator else f"tensor {self.place!r}"
        return f"{place}: {self.rule}: {self.remedy}"


def check_tensorrt(model: onnx.ModelProto) -> None:
    """Refuse a graph that TensorRT would reject, or compute in another way than ONNX Runtime.

    Raises:
        GraphError: it breaks rules; the message lists the first of them by node, operator, rule and remedy.
    """
    found = violations(model)
    if found:
        listed = "\n".join(f"- {violation}" for violation in found[:_LISTED])
        rest = f"\n- and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise GraphError(f"graph {model.graph.name!r}: {len(found)} places break the rules of TensorRT 10.12 to 11:\n{listed}{rest}")


def violations(model: onnx.ModelProto) -> tuple[Violation, ...]:
    """Every broken rule, in the order of the graph.

    Raises:
        GraphError: the graph's types cannot be told, so nothing can be said about it.
    """
    facts = _read(model)
    found = list(_opset(model))
    for role, values in (("input", model.graph.input), ("output", model.graph.output)):
        found += _axes(role, values, facts)
    for node in model.graph.node:
        found += _node(node, facts)
    found += _uint8(model, facts)
    found += _weights(model, facts)
    return tuple(found)


@dataclass(frozen=True)
class _Facts:
    """What the rules look up.

    Attributes:
        types: TensorProto.DataType of every tensor.
        readers: the nodes that read a tensor.
        batch: the name of the first input's first axis.
        has_foreign: an operator of unknown outputs is among the nodes; types behind it are unknown because of it.
    """

    types: Mapping[str, int]
    constants: Mapping[str, npt.NDArray[np.generic]]
    readers: Mapping[str, list[NodeProto]]
    writers: Mapping[str, NodeProto]
    batch: str
    has_foreign: bool

    def is_consequence(self, kind: int) -> bool:
        """Whether a type is unknown because of an operator that is refused anyway."""
        return kind == TensorProto.UNDEFINED and self.has_foreign


def _read(model: onnx.ModelProto) -> _Facts:
    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=False, strict_mode=False).graph
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(f"graph {model.graph.name!r}: its tensor types cannot be told: {error}: export it again") from error
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "Constant" and isinstance(value := attributes(node).get("value"), TensorProto):
            constants[node.output[0]] = numpy_helper.to_array(value)
            types[node.output[0]] = value.data_type
        for name in node.input:
            readers[name].append(node)
    first = graph.input[0].type.tensor_type.shape.dim if graph.input else []
    writers = {name: node for node in graph.node for name in node.output}
    has_foreign = any(node.op_type not in SUPPORTED for node in graph.node)
    return _Facts(types, constants, readers, writers, first[0].dim_param if first else "", has_foreign)


def _opset(model: onnx.ModelProto) -> Iterator[Violation]:
    opsets = {(entry.domain, entry.version) for entry in model.opset_import}
    if opsets != {("", OPSET)}:
        rule = f"expected the standard operators of opset {OPSET} alone, got {sorted(opsets)}"
        yield Violation(model.graph.name, "graph", rule, "export with that opset and no other domain")


def _axes(role: str, values: Any, facts: _Facts) -> Iterator[Violation]:
    """One named batch axis in front, everything else a number: what an optimization profile can be written for."""
    for value in values:
        axes: list[int | str] = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if not axes or axes[0] != facts.batch or not facts.batch:
            rule = f"expected the {role}'s first axis to be the named batch {facts.batch!r} of the first input, got {axes}"
            yield Violation(value.name, "", rule, "name the batch axis, alike in all inputs and outputs")
        if any(isinstance(axis, str) or axis < 1 for axis in axes[1:]):
            yield Violation(value.name, "", f"expected static axes behind the batch, got {axes}", "export with the tile's size fixed")


def _node(node: NodeProto, facts: _Facts) -> Iterator[Violation]:
    place = node.name or (node.output[0] if node.output else "")
    if node.op_type in WRONG_IN_TENSORRT:
        rule = "TensorRT 10.13 to 11.1 computes it wrongly without an error (NVIDIA/TensorRT#4646, #4813)"
        yield Violation(place, node.op_type, rule, "write it as Gather of the corners with weights")
    elif node.op_type in SHAPE_RESIDUE:
        rule = "expected shapes and control flow to be folded at export, got an operator that computes them at run time"
        yield Violation(
            place, node.op_type, rule, "state the size as a number (scale_factor, -1 or a constant) in the module it comes from"
        )
    elif node.op_type not in SUPPORTED:
        rule = f"TensorRT's ONNX parser has no such operator at opset {OPSET}"
        yield Violation(place, node.op_type, rule, "write it with supported ones (export/tensorrt_operators.py)")
    else:
        used = restriction(node, facts.constants)
        if used is not None:
            yield Violation(place, node.op_type, f"TensorRT does not take {used}", "see export/tensorrt_operators.py for what it takes")
        yield from _node_types(node, place, facts)


def _node_types(node: NodeProto, place: str, facts: _Facts) -> Iterator[Violation]:
    """TensorRT's own types for the operator, and one type where ONNX's definition has one: no casts are put in between for us."""
    name = typed_input(node)
    found = facts.types.get(name, 0) if name else 0
    has_own_rules = found == TensorProto.UINT8
    if name and found not in SUPPORTED[node.op_type] and not has_own_rules and not facts.is_consequence(found):
        allowed = sorted(_type_name(kind) for kind in SUPPORTED[node.op_type])
        yield Violation(place, node.op_type, f"expected {name!r} to be one of {allowed}, got {_type_name(found)}", "cast it before")
    for kind, tensors in _by_type_variable(node).items():
        types = {tensor: _type_name(facts.types[tensor]) for tensor in tensors if facts.types.get(tensor)}
        if len(set(types.values())) > 1:
            rule = f"expected one element type for {kind}, since a strongly typed network converts nothing by itself, got {types}"
            yield Violation(place, node.op_type, rule, "cast them to one type explicitly")


def _by_type_variable(node: NodeProto) -> dict[str, list[str]]:
    """Tensors of the node that ONNX's definition gives the same type variable, e.g. T of Add."""
    schema = onnx.defs.get_schema(node.op_type, OPSET)
    groups: dict[str, list[str]] = defaultdict(list)
    for formal, actual in ((schema.inputs, node.input), (schema.outputs, node.output)):
        for index, name in enumerate(actual):
            parameter = formal[min(index, len(formal) - 1)]
            if name and parameter.is_homogeneous and not parameter.type_str.startswith("tensor("):
                groups[parameter.type_str].append(name)
    return groups


def _uint8(model: onnx.ModelProto, facts: _Facts) -> Iterator[Violation]:
    """uint8 lives at the ends alone: inputs are cast to float at once, outputs are cast from float and read by nobody."""
    inputs = {value.name for value in model.graph.input}
    outputs = {value.name for value in model.graph.output}
    for name, kind in facts.types.items():
        if kind != TensorProto.UINT8 or name in facts.constants:
            continue
        if name not in inputs | outputs:
            rule = "TensorRT has uint8 at the network's inputs and outputs alone, this tensor is between them"
            yield Violation(name, "", rule, "cast to float first and to uint8 last")
        for node in facts.readers.get(name, []) if name in inputs | outputs else []:
            to = facts.types.get(node.output[0], 0)
            if name in outputs or node.op_type != "Cast" or to not in FLOATS:
                rule = f"expected uint8 {name!r} to be read by a Cast to float alone, got {node.op_type} to {_type_name(to)}"
                yield Violation(node.name, node.op_type, rule, "float() before anything else, permute included")
        if name in outputs:
            yield from _uint8_output(name, facts)


def _uint8_output(name: str, facts: _Facts) -> Iterator[Violation]:
    node = facts.writers.get(name)
    source = facts.types.get(node.input[0], 0) if node is not None and node.input else 0
    if node is None or node.op_type != "Cast" or (source not in FLOATS and not facts.is_consequence(source)):
        got = "the input itself" if node is None else f"{node.op_type} of {_type_name(source)}"
        rule = f"expected uint8 output {name!r} to be cast from float, got {got}"
        yield Violation(node.name if node else name, node.op_type if node else "", rule, "write .float().to(torch.uint8) at the end")


def _weights(model: onnx.ModelProto, facts: _Facts) -> Iterator[Violation]:
    for name, kind in facts.types.items():
        if kind == TensorProto.DOUBLE:
            yield Violation(name, "", "expected no float64, which TensorRT turns into float32", "make it float32 in the module")
        elif kind == TensorProto.UINT8 and name in facts.constants and not _is_zero_point(name, facts):
            yield Violation(name, "", "expected no uint8 constant, TensorRT has uint8 at its ends alone", "make it float32 in the module")
    for name, values in facts.constants.items():
        is_wide = values.dtype == np.int64 and values.size and (values.max() > _INT32.max or values.min() < _INT32.min)
        if is_wide and not all(_is_clamped(name, node) for node in facts.readers.get(name, [])):
            rule = f"expected integers within int32, got {values.min()} to {values.max()}"
            yield Violation(name, "", rule, "use smaller constants")
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        yield Violation(model.graph.name, "graph", "expected all weights inside the file, got external data", "save it as one file")


def _is_zero_point(name: str, facts: _Facts) -> bool:
    """Those have a rule of their own, which says more."""
    return all(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in facts.readers.get(name, []))


def _is_clamped(name: str, node: NodeProto) -> bool:
    return all(index in _CLAMPED_INPUTS.get(node.op_type, ()) for index, read in enumerate(node.input) if read == name)


def _type_name(kind: int) -> str:
    return str(TensorProto.DataType.Name(kind)) if kind else "an unknown type"
