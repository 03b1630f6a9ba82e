"""Runs an exported graph in ONNX Runtime on the CPU, and can expose the logits inside it. Knows no task and no threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx
import onnxruntime

from .errors import GraphError

LOGITS = "LOGITS"  # the name under which `expose_logits` adds them; never served


class Graph:
    """One ONNX graph, ready to run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Inputs by name → outputs by name, batch first."""
        return dict(zip(self._outputs, self._session.run(None, dict(inputs)), strict=True))


def expose_logits(model: onnx.ModelProto, output: str, activation: str) -> onnx.ModelProto:
    """A copy of the graph with one more output, LOGITS: what the activation behind `output` receives.

    Quantized outputs hide drift that the logits show; the served file itself stays as it is.

    Args:
        output: the output to walk back from, e.g. PROBABILITIES.
        activation: ONNX operator type, e.g. Softmax.

    Raises:
        GraphError: no such operator lies behind the output.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    producers = {name: node for node in copy.graph.node for name in node.output}
    waiting, seen = [output], {output}
    while waiting:
        node = producers.get(waiting.pop(0))
        if node is None:
            continue
        if node.op_type == activation:
            copy.graph.node.append(onnx.helper.make_node("Identity", [node.input[0]], [LOGITS]))
            copy.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
            return copy
        fresh = [name for name in node.input if name not in seen]
        waiting += fresh
        seen.update(fresh)
    raise GraphError(f"graph {model.graph.name!r}: expected a {activation} behind {output}, found none: its logits cannot be compared")
