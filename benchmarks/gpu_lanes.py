"""The ways to run a network on a device, each where its package is there: torch eager, compiled, as a CUDA graph; ONNX Runtime; TensorRT."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .gpu_networks import Network, tiles_of, write_onnx

Call = Callable[[], object]


class LaneMissing(Exception):
    """This machine cannot run the lane; the message is the reason, and goes into the result."""


def eager(network: Network, batch: int, device: torch.device) -> Call:
    """Torch as it is, tiles on the device."""
    tiles, module = tiles_of(batch, network.task.tile_px, device), network.module

    def call() -> object:
        with torch.inference_mode():
            return module(tiles)

    return call


def compiled(network: Network, batch: int, device: torch.device) -> Call:
    """torch.compile, for this batch alone."""
    tiles = tiles_of(batch, network.task.tile_px, device)
    # The smoke test is of this program, not of the compiler, which takes minutes on a CPU.
    module = torch.compile(network.module, dynamic=False, backend="eager" if network.name == "smoke" else "inductor")

    def call() -> object:
        with torch.inference_mode():
            return module(tiles)

    call()  # compiles, or says why it cannot
    return call


def cuda_graph(network: Network, batch: int, device: torch.device) -> Call:
    """Torch's kernels recorded once and played again: what launching them costs is gone."""
    if device.type != "cuda":
        raise LaneMissing("a CUDA graph needs a GPU")
    tiles, module = tiles_of(batch, network.task.tile_px, device), network.module
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside), torch.inference_mode():
        for _ in range(3):  # libraries allocate at first
            module(tiles)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.inference_mode():
        module(tiles)
    return graph.replay


def onnxruntime(network: Network, batch: int, device: torch.device) -> Call:
    """The exported graph; on a GPU inputs and outputs stay there (I/O binding)."""
    runtime = _package("onnxruntime")
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise LaneMissing(f"onnxruntime {runtime.__version__} is installed without {provider}")
    session = runtime.InferenceSession(_graph(network, device), providers=[provider])
    if provider not in session.get_providers():  # it falls back without an error
        raise LaneMissing(f"onnxruntime {runtime.__version__} could not start {provider}: its log says why")
    tiles = tiles_of(batch, network.task.tile_px, torch.device("cpu")).numpy()
    binding = session.io_binding()
    binding.bind_ortvalue_input("TILE", runtime.OrtValue.ortvalue_from_numpy(tiles, device.type, 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, device.type, 0)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def tensorrt(network: Network, batch: int, device: torch.device) -> Call:
    """A TensorRT engine of the exported graph, built for this call; copies to and from the device count."""
    if device.type != "cuda":
        raise LaneMissing("TensorRT needs a GPU")
    _package("tensorrt")
    onnx, engine = _package("onnx"), importlib.import_module("export.tensorrt_engine")
    runtime = importlib.import_module("export.tensorrt_runtime")
    graph = runtime.TensorRtGraph(onnx.load_from_string(_graph(network, device)), engine.BatchProfile(1, batch, batch))
    tiles = {"TILE": tiles_of(batch, network.task.tile_px, torch.device("cpu")).numpy()}
    return lambda: graph.run(tiles)


LANES: dict[str, Callable[[Network, int, torch.device], Call]] = {
    "torch-eager": eager,
    "torch-compile": compiled,
    "cuda-graph": cuda_graph,
    "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
}


def _package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise LaneMissing(f"{name} is not installed")
    return importlib.import_module(name)


def _graph(network: Network, device: torch.device) -> bytes:
    """The network as ONNX; it is moved for that, and moved back."""
    if network.precision != "fp32":
        raise LaneMissing("exported in fp32 only: fp16 graphs are made by `histoserve export --precision fp16`")
    _package("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            write_onnx(network, path)
        finally:
            network.module.to(device)
        return path.read_bytes()
