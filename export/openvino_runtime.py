"""Runs an exported graph in OpenVINO on the CPU, where the package is installed. Knows no task and no threshold."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx

from .errors import GraphError

_TELEMETRY = "openvino_telemetry"


def openvino_absent() -> str | None:
    """Why OpenVINO cannot run here; None where it can."""
    return None if importlib.util.find_spec("openvino") else "openvino is not installed: pip install openvino"


class OpenVinoGraph:
    """One ONNX graph, compiled; in float32 whatever the processor would prefer (bfloat16, where it has units for it)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Compile the graph.

        Raises:
            GraphError: OpenVINO is not installed, or cannot compile the graph.
        """
        self._name = model.graph.name
        core = _openvino().Core()
        try:
            read = core.read_model(model.SerializeToString())
            self._compiled = core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise GraphError(f"graph {self._name!r}: OpenVINO cannot compile it: {error}") from error
        self._outputs = [output.name for output in model.graph.output]

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Inputs by name → outputs by name, batch first.

        Raises:
            GraphError: the graph does not take what its inputs promise.
        """
        try:
            # Not the synchronous call: with one thread it swallows errors and gives the previous rows. A request is its own memory.
            request = self._compiled.create_infer_request()
            request.start_async(dict(inputs))
            request.wait()
            return {name: request.get_tensor(name).data.copy() for name in self._outputs}
        except RuntimeError as error:
            given = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
            raise GraphError(f"graph {self._name!r}: OpenVINO cannot run it on {given}: {error}") from error


def _openvino() -> Any:
    """The package, without its telemetry: importing openvino sends an event to its maker, unless that package cannot be imported."""
    reason = openvino_absent()
    if reason is not None:
        raise GraphError(f"expected OpenVINO: {reason}")
    if "openvino" not in sys.modules:
        sys.modules.setdefault(_TELEMETRY, None)  # type: ignore[arg-type]  # None: "not to be imported"
    return importlib.import_module("openvino")
