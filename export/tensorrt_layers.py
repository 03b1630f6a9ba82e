"""In which types an engine's layers run, against those its graph asked for. Reads the inspector's JSON; needs no TensorRT.

A builder that drops a precision says so nowhere: the engine is right and slow (serving.md §4.4). So nothing is taken on trust here: a layer that
cannot be read is an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from .errors import EngineError

# Where the time goes, and where a lost precision costs it.
COMPUTE = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum"})
# A cast that is fused into its operator leaves the outer type alone to be seen; a graph has a few of these, a dropped precision shows everywhere.
MAX_WRONG_SHARE = 0.05
# What is folded away or renamed cannot be told; if that is much, nothing can.
MIN_FOUND_SHARE = 0.9

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_WORD = re.compile(r"[a-z]+[a-z0-9]*")
_TYPE_WORDS: Mapping[str, str] = {
    "float": "FLOAT",
    "fp32": "FLOAT",
    "half": "FLOAT16",
    "fp16": "FLOAT16",
    "bf16": "BFLOAT16",
    "bfloat16": "BFLOAT16",
    "fp8": "FLOAT8",
    "int8": "INT8",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "bool": "BOOL",
}


@dataclass(frozen=True)
class Layer:
    """One layer of an engine.

    Attributes:
        onnx_nodes: names of the nodes that were fused into it.
        data_types: ONNX's names of the types of its inputs and outputs.
    """

    name: str
    onnx_nodes: tuple[str, ...]
    data_types: frozenset[str]


@dataclass(frozen=True)
class LayerReport:
    """What was asked and what was got, counted in operators that compute (`COMPUTE`).

    Attributes:
        asked: operators per type in the graph.
        wrong: nodes whose layer has no tensor of the type that was asked for.
        missing: nodes that no layer names.
    """

    asked: Mapping[str, int]
    wrong: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def total(self) -> int:
        return sum(self.asked.values())


def asked_types(model: onnx.ModelProto) -> dict[str, str]:
    """Node name → the type it computes in, ONNX's name; INT8 where its input is dequantized just before.

    Raises:
        EngineError: a node without a name of its own could not be found again in the engine.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    asked: dict[str, str] = {}
    for node in graph.node:
        if node.op_type not in COMPUTE:
            continue
        if not node.name or node.name in asked:
            raise EngineError(
                f"graph {graph.name!r}: expected a name of its own for each {node.op_type}, got {node.name!r}: name the nodes"
            )
        asked[node.name] = "INT8" if node.input[0] in dequantized else TensorProto.DataType.Name(types.get(node.output[0], 0))
    return asked


def parse_layers(information: str) -> tuple[Layer, ...]:
    """The layers of `IEngineInspector.get_engine_information(JSON)`, in the form of TensorRT 10 or 11.

    Raises:
        EngineError: the engine was built without detailed profiling verbosity, or a type is described in unknown words.
    """
    try:
        # Metadata separates its entries by a control character that TensorRT does not escape.
        layers = json.loads(information, strict=False)["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise EngineError(f"engine inspector: expected JSON with Layers, got {information[:200]!r}: {error}") from error
    return tuple(_layer(entry) for entry in layers)


def check_layers(engine: str, asked: Mapping[str, str], information: str) -> LayerReport:
    """Refuse an engine that computes in other types than its graph asked for.

    Args:
        engine: its name, for messages.
        asked: of `asked_types`.
        information: the inspector's JSON, with every input shape set.

    Raises:
        EngineError: types differ, or too little of the graph can be found in the engine to tell.
    """
    got: dict[str, set[str]] = defaultdict(set)
    for layer in parse_layers(information):
        for node in layer.onnx_nodes:
            got[node] |= layer.data_types
    missing = tuple(node for node in asked if node not in got)
    wrong = tuple(node for node, kind in asked.items() if node in got and kind not in got[node])
    report = LayerReport(dict(Counter(asked.values())), wrong, missing)
    if report.total - len(missing) < MIN_FOUND_SHARE * report.total:
        raise EngineError(
            f"engine {engine!r}: expected to find at least {MIN_FOUND_SHARE:.0%} of its {report.total} computing operators among the layers, "
            f"{len(missing)} are missing ({', '.join(missing[:3])}, …): its types cannot be told, so it is not used"
        )
    if len(wrong) > MAX_WRONG_SHARE * report.total:
        shown = "; ".join(f"{node} asked for {asked[node]}, its layer has {sorted(got[node])}" for node in wrong[:3])
        raise EngineError(
            f"engine {engine!r}: {len(wrong)} of {report.total} computing operators do not run in the type of the graph: {shown}. "
            "TensorRT dropped the precision: build with a strongly typed network from a graph that carries its types"
        )
    return report


def _layer(entry: Any) -> Layer:
    if not isinstance(entry, dict):
        raise EngineError(
            f"engine inspector: expected layers with their tensors, got the name {entry!r} alone: build with ProfilingVerbosity.DETAILED"
        )
    tensors = (*entry.get("Inputs", ()), *entry.get("Outputs", ()))
    types = frozenset(_data_type(tensor, entry.get("Name", "")) for tensor in tensors)
    return Layer(entry.get("Name", ""), tuple(_ONNX_NODE.findall(entry.get("Metadata", ""))), types)


def _data_type(tensor: Mapping[str, Any], layer: str) -> str:
    """10 describes type and format in one sentence ("Row major linear FP16 format", "Half"), 11 has a field for each."""
    described = tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype", "")
    found = {_TYPE_WORDS[word] for word in _WORD.findall(described.lower()) if word in _TYPE_WORDS}
    if len(found) != 1:
        raise EngineError(
            f"engine inspector: layer {layer!r}: expected tensor {tensor.get('Name', '')!r} to have one known type, got {described!r}: "
            "set every input's shape in the context that is inspected"
        )
    return found.pop()
