"""Runs an exported graph in ONNX Runtime on the CPU, and can expose what is inside it. Knows no task and no threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from .errors import GraphError

LOGITS = "LOGITS"  # the names under which `expose_logits` and `expose_peaks` add them; never served
PEAKS = "PEAKS"
_FAULTS = (states.Fail, states.InvalidArgument, states.InvalidGraph, states.NotImplemented, states.RuntimeException)
_ERRORS_ONLY = 3  # of ONNX Runtime's log: its optimizer warns of every node that it leaves alone


class Graph:
    """One ONNX graph, ready to run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Load the graph.

        Raises:
            GraphError: ONNX Runtime cannot load it.
        """
        self._name = model.graph.name
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except _FAULTS as error:
            raise GraphError(f"graph {self._name!r}: ONNX Runtime cannot load it: {error}") from error
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Inputs by name → outputs by name, batch first.

        Raises:
            GraphError: the graph does not take what its inputs promise, e.g. a batch of another size than it was traced with.
        """
        try:
            answer = self._session.run(None, dict(inputs))
        except _FAULTS as error:
            given = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise GraphError(f"graph {self._name!r}: ONNX Runtime cannot run it on {given}: {error}") from error
        return dict(zip(self._outputs, answer, strict=True))


def expose_logits(model: onnx.ModelProto, output: str, activation: str) -> onnx.ModelProto:
    """A copy of the graph with one more float32 output, LOGITS: what the activation behind `output` receives.

    Quantized outputs hide drift that the logits show; the served file itself stays as it is.

    Args:
        output: the output to walk back from, e.g. PROBABILITIES.
        activation: ONNX operator type, e.g. Softmax.

    Raises:
        GraphError: no such operator lies behind the output.
    """
    node = _behind(model, output, activation, "its logits cannot be compared")
    return _with_output(model, node.input[0], LOGITS)


def expose_peaks(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """A copy of the graph with one more float32 output, PEAKS: what `output` (CAM) was divided by, the largest activation of each map.

    Raises:
        GraphError: no maximum lies behind the output.
    """
    return _with_output(model, _behind(model, output, "ReduceMax", "its error cannot be told in units of the activation").output[0], PEAKS)


def _behind(model: onnx.ModelProto, output: str, operator: str, consequence: str) -> onnx.NodeProto:
    """The nearest node of that type on the way back from an output."""
    producers = {name: node for node in model.graph.node for name in node.output}
    waiting, seen = [output], {output}
    while waiting:
        node = producers.get(waiting.pop(0))
        if node is None:
            continue
        if node.op_type == operator:
            return node
        fresh = [name for name in node.input if name not in seen]
        waiting += fresh
        seen.update(fresh)
    raise GraphError(f"graph {model.graph.name!r}: expected a {operator} behind {output}, found none: {consequence}")


def _with_output(model: onnx.ModelProto, tensor: str, name: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.append(onnx.helper.make_node("Cast", [tensor], [name], to=onnx.TensorProto.FLOAT))  # the tensor may be fp16
    copy.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return copy
