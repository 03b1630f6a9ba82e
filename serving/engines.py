"""The embedded server's engines in this process: the backend's own code, hence the same values. Knows no Triton, no release and no contract."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy.typing as npt

RuntimeName = Literal["onnxruntime", "openvino"]
Arrays = Mapping[str, npt.NDArray[Any]]

_BACKEND = "serving.backends.onnxruntime"
_ENGINES: Mapping[RuntimeName, tuple[str, str]] = {
    "onnxruntime": ("runtime_engine", "RuntimeEngine"),
    "openvino": ("openvino_engine", "OpenVinoEngine"),
}


class Engine(Protocol):
    """A graph that is ready to run.

    Attributes:
        label: the runtime as people write it, e.g. "ONNX Runtime".
        version: of its package.
    """

    label: str
    version: str

    def run(self, feeds: Arrays, names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Inputs by name → the named outputs by name, batch first."""


def is_installed(runtime: RuntimeName) -> bool:
    """Whether its package is there; imports nothing."""
    return importlib.util.find_spec(runtime) is not None


def load_engine(runtime: RuntimeName, graph: str | bytes, threads: int = 0, inter_op_threads: int = 1) -> Engine:
    """An ONNX graph in one of the backend's engines. Only that one is imported.

    Args:
        graph: the file's path, or what is in it.
        threads: 0 = every core.
        inter_op_threads: ONNX Runtime's alone.

    Raises:
        ImportError: its package is not installed.
        Exception: the graph is damaged, or not for this runtime; each has errors of its own.
    """
    choice = importlib.import_module(f"{_BACKEND}.engine_choice").Choice(runtime, "asked for", threads, inter_op_threads, graph_level=0)
    module, name = _ENGINES[runtime]
    engine: Engine = getattr(importlib.import_module(f"{_BACKEND}.{module}"), name)(graph, choice)
    return engine
