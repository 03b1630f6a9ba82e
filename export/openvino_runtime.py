"""An exported graph in OpenVINO on the CPU, by the engine that the embedded server runs it in. Knows no task and no threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx

from serving.engines import is_installed, load_engine

from .errors import GraphError


def openvino_absent() -> str | None:
    """Why OpenVINO cannot run here; None where it can."""
    return None if is_installed("openvino") else "openvino is not installed: pip install openvino"


class OpenVinoGraph:
    """One ONNX graph, compiled; in float32 whatever the processor would prefer, and cut into pieces as in the server."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Read the graph.

        Raises:
            GraphError: OpenVINO is not installed, or cannot read the graph.
        """
        self._name = model.graph.name
        reason = openvino_absent()
        if reason is not None:
            raise GraphError(f"expected OpenVINO: {reason}")
        try:
            self._engine = load_engine("openvino", model.SerializeToString())
        except RuntimeError as error:
            raise GraphError(f"graph {self._name!r}: OpenVINO cannot read it: {error}") from error
        self._outputs = [output.name for output in model.graph.output]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Inputs by name → outputs by name, batch first.

        Raises:
            GraphError: the graph does not take what its inputs promise, or OpenVINO cannot compile it.
        """
        try:
            return self._engine.run(inputs, self._outputs)
        except Exception as error:  # RunError of a module that is loaded with OpenVINO alone; RuntimeError where it compiles
            given = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise GraphError(f"graph {self._name!r}: OpenVINO cannot run it on {given}: {error}") from error
