"""Runs an exported graph in TensorRT on this machine's GPU, where both are there: the gate's view of an engine. Knows no task and no threshold.

Written to the documentation of TensorRT 10.12 and 11; never run where this was written (export/README.md).
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper
from tritonclient.utils import np_to_triton_dtype

from serving.modelconfig import Tensor

from .errors import EngineError, ExportError
from .tensorrt_engine import BatchProfile, build_engine, load_tensorrt
from .tensorrt_rules import check_tensorrt

_RUNTIME_HINT = "trtexec --loadEngine=model.plan"


def tensorrt_absent(model: onnx.ModelProto) -> str | None:
    """Why a graph cannot run in TensorRT here; None where it can."""
    if importlib.util.find_spec("tensorrt") is None:
        return "tensorrt is not installed; its engines are checked where they are built"
    if not torch.cuda.is_available():
        return "tensorrt is installed, but torch finds no GPU to run its engines on"
    try:
        check_tensorrt(model)
    except ExportError as error:
        return f"the graph is not for TensorRT: {error}"
    return None


class TensorRtGraph:
    """One ONNX graph as an engine, built for this call; inputs and outputs travel through torch's memory on the GPU.

    Args:
        profile: what the engine takes; larger batches are cut into parts.
    """

    def __init__(self, model: onnx.ModelProto, profile: BatchProfile | None = None) -> None:
        """Build and load the engine.

        Raises:
            GraphError: the graph breaks a rule of TensorRT.
            EngineError: TensorRT refuses it, or the engine runs in other types than the graph asks for.
        """
        self.profile = profile or BatchProfile()
        self._name = model.graph.name
        self._outputs = [output.name for output in model.graph.output]
        trt = load_tensorrt(_RUNTIME_HINT)
        with tempfile.TemporaryDirectory(prefix="histoserve-engine-") as folder:
            plan = build_engine(model, graph_inputs(model), self.profile, Path(folder)).path.read_bytes()
        self._trt = trt
        # TensorRT objects keep no reference to what they were made by: the runtime must outlive its engine.
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"graph {self._name!r}: TensorRT {trt.__version__} cannot load the engine it has just built")
        self._context = self._engine.create_execution_context()

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Inputs by name → outputs by name, batch first.

        Raises:
            EngineError: TensorRT refuses a shape, or fails.
        """
        count = len(next(iter(inputs.values())))
        starts = range(0, count, self.profile.max)
        parts = [self._run_part({name: array[start : start + self.profile.max] for name, array in inputs.items()}) for start in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def _run_part(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        held = {name: torch.from_numpy(np.ascontiguousarray(array)).cuda() for name, array in inputs.items()}
        for name, tensor in held.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise EngineError(f"graph {self._name!r}: the engine refuses {name} of shape {tuple(tensor.shape)}")
        for name in self._outputs:
            dtype = torch.from_numpy(np.empty(0, self._trt.nptype(self._engine.get_tensor_dtype(name)))).dtype
            held[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=dtype, device="cuda")
        for name, tensor in held.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        # The default stream: torch's copies to the GPU lie on it, so they come first.
        if not self._context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise EngineError(f"graph {self._name!r}: TensorRT failed to run a batch of {len(next(iter(inputs.values())))}")
        return {name: held[name].cpu().numpy() for name in self._outputs}


def graph_inputs(model: onnx.ModelProto) -> tuple[Tensor, ...]:
    """The graph's inputs as Triton names them, dims without the batch."""
    inputs = []
    for value in model.graph.input:
        kind = value.type.tensor_type
        data_type = np_to_triton_dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        inputs.append(Tensor(value.name, f"TYPE_{data_type}", tuple(side.dim_value for side in kind.shape.dim[1:])))
    return tuple(inputs)
