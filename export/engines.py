"""What can run a graph on this machine, in the order of the reports. An engine that is absent is named with its reason, never left out."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import onnx

from .errors import GraphError
from .openvino_runtime import OpenVinoGraph, openvino_absent
from .runtime import Graph


class Runner(Protocol):
    """A graph, loaded."""

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Inputs by name → outputs by name, batch first."""
        ...


@dataclass(frozen=True)
class Engine:
    """One way to run a graph.

    Attributes:
        load: raises GraphError where the engine cannot take the graph.
        absent: why it cannot run here; None where it can.
    """

    name: str
    load: Callable[[onnx.ModelProto], Runner]
    absent: Callable[[], str | None]


def _tensorrt_absent() -> str:
    if importlib.util.find_spec("tensorrt") is None:
        return "tensorrt is not installed; its engines are checked where they are built"
    return "its engines depend on the GPU and are checked where they are built"


def _no_tensorrt(model: onnx.ModelProto) -> Runner:
    raise GraphError(f"graph {model.graph.name!r}: {_tensorrt_absent()}")


ONNX_RUNTIME = Engine("onnxruntime", Graph, lambda: None)
OPENVINO = Engine("openvino", OpenVinoGraph, openvino_absent)
TENSORRT = Engine("tensorrt", _no_tensorrt, _tensorrt_absent)
ENGINES = (ONNX_RUNTIME, OPENVINO, TENSORRT)
