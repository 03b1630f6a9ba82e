"""A torch module to an ONNX graph that ONNX Runtime, OpenVINO and TensorRT read alike, and the rules such a graph keeps. Knows no task."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import nn

from serving.modelconfig import Tensor

from .errors import GraphError
from .fold import BATCH, batch_multiple, fold
from .signature import Signature

OPSET = 18  # 20's GridSample is wrong in TensorRT and has no CUDA kernel in ONNX Runtime; 18 loads everywhere
MAX_BATCH = 64
_EXAMPLE_BATCH = 2  # torch.export would specialize on 0 and 1
_TORCH = {"TYPE_UINT8": torch.uint8, "TYPE_FP32": torch.float32}
_ONNX = {"TYPE_UINT8": onnx.TensorProto.UINT8, "TYPE_FP32": onnx.TensorProto.FLOAT}
_FORBIDDEN = {"GridSample": "TensorRT 10.14…11.1 computes it wrongly without an error"}
_RESIDUE = frozenset({"Shape", "Size", "ConstantOfShape", "Range", "Mod", "NonZero", "Loop", "If", "Scan"})


def to_onnx(module: nn.Module, signature: Signature) -> onnx.ModelProto:
    """Export a wrapper; the batch is the only dynamic axis.

    Raises:
        GraphError: torch cannot export the module, or the graph breaks a rule of `check_graph` or `check_folded`.
    """
    batch = torch.export.Dim(BATCH, min=1, max=MAX_BATCH)
    examples = tuple(torch.zeros((_EXAMPLE_BATCH, *tensor.dims), dtype=_TORCH[tensor.data_type]) for tensor in signature.inputs)
    name = type(module).__name__
    with warnings.catch_warnings():
        # torch 2.13 deep-copies its own deprecated LeafSpec; and it says that inputs share one batch axis, as they must.
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        warnings.filterwarnings("ignore", message="# The axis name: batch will not be used", category=UserWarning)
        try:
            program = torch.onnx.export(
                module.eval(),
                examples,
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=tuple({0: batch} for _ in examples),
                input_names=[tensor.name for tensor in signature.inputs],
                output_names=[tensor.name for tensor in signature.outputs],
                external_data=False,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise GraphError(f"{name}: torch cannot export it to ONNX opset {OPSET}: {error}") from error
    if program is None:
        raise GraphError(f"{name}: torch.onnx.export returned no program")
    model: onnx.ModelProto = program.model_proto
    strip_traces(model)
    fold(model)
    check_graph(model, signature)
    check_folded(model)
    return model


def strip_traces(model: onnx.ModelProto) -> None:
    """Drop torch's notes: they hold source paths of the exporting machine and are larger than a small graph."""
    graph = model.graph
    noted: Any
    for noted in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""


def check_graph(model: onnx.ModelProto, signature: Signature) -> None:
    """The rules every lane relies on: opset, operators, one file, tensors as the signature says, only the batch dynamic.

    Raises:
        GraphError: the first rule that is broken.
    """
    name = model.graph.name
    opsets = {(entry.domain, entry.version) for entry in model.opset_import}
    if opsets != {("", OPSET)}:
        raise GraphError(f"graph {name!r}: expected the standard operators of opset {OPSET} alone, got {sorted(opsets)}")
    for node in model.graph.node:
        if node.op_type in _FORBIDDEN:
            raise GraphError(f"graph {name!r}: expected no {node.op_type} ({_FORBIDDEN[node.op_type]}), got one at {node.name!r}")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise GraphError(f"graph {name!r}: expected all weights inside the file, got external data")
    _check_tensors(name, "inputs", model.graph.input, signature.inputs)
    _check_tensors(name, "outputs", model.graph.output, signature.outputs)
    for value in model.graph.value_info:
        free = [dim for dim in _describe(value)[2] if isinstance(dim, str) and batch_multiple(dim) is None]
        if free:
            raise GraphError(f"graph {name!r}: expected {BATCH!r} to be the only dynamic axis, got {free} of the tensor {value.name!r}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"graph {name!r}: ONNX's own checker refuses it: {error}") from error


def check_folded(model: onnx.ModelProto) -> None:
    """No shape is computed at run time. A rule of speed, for new graphs: engines fuse no better than shapes let them.

    Raises:
        GraphError: the first node that computes one.
    """
    for node in model.graph.node:
        if node.op_type in _RESIDUE:
            raise GraphError(
                f"graph {model.graph.name!r}: expected no shape to be computed at run time, got {node.op_type} at {node.name!r}: "
                "write the module with fixed sizes, so that export/fold.py can make them constants"
            )


def _check_tensors(graph: str, role: str, found: Sequence[onnx.ValueInfoProto], expected: Sequence[Tensor]) -> None:
    got = [_describe(value) for value in found]
    want = [(tensor.name, _ONNX[tensor.data_type], (BATCH, *tensor.dims)) for tensor in expected]
    if got != want:
        raise GraphError(f"graph {graph!r}: expected the {role} {want}, got {got}")


def _describe(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
