"""What can run a graph on this machine, in the order of the reports. An engine that is absent is named with its reason, never left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt
import onnx

from .openvino_runtime import OpenVinoGraph, openvino_absent
from .runtime import Graph
from .tensorrt_runtime import TensorRtGraph, tensorrt_absent


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
        absent: why it cannot run the graph here; None where it can.
        combines: whether it may run the combine graph too, which must keep the rule exactly.
    """

    name: str
    load: Callable[[onnx.ModelProto], Runner]
    absent: Callable[[onnx.ModelProto], str | None]
    combines: bool = True


ONNX_RUNTIME = Engine("onnxruntime", Graph, lambda model: None)
OPENVINO = Engine("openvino", OpenVinoGraph, lambda model: openvino_absent())
# The combine graph stays with ONNX Runtime on a GPU too (`targets.GpuTarget`).
TENSORRT = Engine("tensorrt", TensorRtGraph, tensorrt_absent, combines=False)
ENGINES = (ONNX_RUNTIME, OPENVINO, TENSORRT)
