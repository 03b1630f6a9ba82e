"""The ways to run a network on a device, each where its package is there: torch eager, compiled, as a CUDA graph; ONNX Runtime; TensorRT; Triton's wheel."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .gpu_networks import Network, tiles_of, write_onnx

Call = Callable[[], object]
Prepare = Callable[[int], Call]  # of a batch


@dataclass(frozen=True)
class Wheels:
    """What the lane of Triton's wheel runs in.

    Attributes:
        triton: an environment that is there; None = as `histoserve serve` finds it.
        triton_wheel, onnxruntime_wheel: both given, an environment is made of them in `folder`.
    """

    triton: Path | None = None
    triton_wheel: Path | None = None
    onnxruntime_wheel: Path | None = None
    folder: Path = Path("out/gpu-triton")


Lane = Callable[[Network, torch.device, Wheels], AbstractContextManager[Prepare]]


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


@contextmanager
def onnxruntime(network: Network, device: torch.device, wheels: Wheels) -> Iterator[Prepare]:
    """The exported graph; on a GPU inputs and outputs stay there (I/O binding)."""
    runtime = _package("onnxruntime")
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise LaneMissing(f"onnxruntime {runtime.__version__} is installed without {provider}")
    session = runtime.InferenceSession(_graph(network, device), providers=[provider])
    if provider not in session.get_providers():  # it falls back without an error
        raise LaneMissing(f"onnxruntime {runtime.__version__} could not start {provider}: its log says why")

    def prepare(batch: int) -> Call:
        binding = session.io_binding()
        binding.bind_ortvalue_input("TILE", runtime.OrtValue.ortvalue_from_numpy(_host_tiles(network, batch), device.type, 0))
        for output in session.get_outputs():
            binding.bind_output(output.name, device.type, 0)

        def call() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call

    yield prepare


@contextmanager
def tensorrt(network: Network, device: torch.device, wheels: Wheels) -> Iterator[Prepare]:
    """A TensorRT engine of the exported graph, built for each batch; copies to and from the device count."""
    if device.type != "cuda":
        raise LaneMissing("TensorRT needs a GPU")
    _package("tensorrt")
    onnx, engine = _package("onnx"), importlib.import_module("export.tensorrt_engine")
    runtime = importlib.import_module("export.tensorrt_runtime")
    model = onnx.load_from_string(_graph(network, device))

    def prepare(batch: int) -> Call:
        graph = runtime.TensorRtGraph(model, engine.BatchProfile(1, batch, batch))
        tiles = {"TILE": _host_tiles(network, batch)}
        return lambda: graph.run(tiles)

    yield prepare


@contextmanager
def triton(network: Network, device: torch.device, wheels: Wheels) -> Iterator[Prepare]:
    """The exported graph through Triton's wheel and our python-based backend; one server for all batches, gRPC counts."""
    for name in ("onnx", "tritonclient"):
        _package(name)
    folder = wheels.triton
    if wheels.triton_wheel is not None and wheels.onnxruntime_wheel is not None:
        environments = importlib.import_module("benchmarks.gpu_triton_environment")
        folder = environments.make_environment(wheels.folder, wheels.triton_wheel, wheels.onnxruntime_wheel)
    served = importlib.import_module("benchmarks.gpu_triton")
    with served.serve_graph(network, lambda: _graph(network, device), device.type, folder) as calls:
        yield lambda batch: calls(_host_tiles(network, batch))


def _by_batch(lane: Callable[[Network, int, torch.device], Call]) -> Lane:
    """A lane that holds nothing between two batches."""

    @contextmanager
    def opened(network: Network, device: torch.device, wheels: Wheels) -> Iterator[Prepare]:
        yield lambda batch: lane(network, batch, device)

    return opened


LANES: dict[str, Lane] = {
    "torch-eager": _by_batch(eager),
    "torch-compile": _by_batch(compiled),
    "cuda-graph": _by_batch(cuda_graph),
    "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
    "triton": triton,
}


def _package(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise LaneMissing(f"{name} is not installed")
    return importlib.import_module(name)


def _host_tiles(network: Network, batch: int) -> Any:
    """uint8 (batch, side, side, 3), a numpy array."""
    return tiles_of(batch, network.task.tile_px, torch.device("cpu")).numpy()


def _graph(network: Network, device: torch.device) -> bytes:
    """The network as ONNX, in its precision; it is moved for that, and moved back."""
    _package("onnx")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            write_onnx(network, path)
        finally:
            network.module.to(device)
        return path.read_bytes()
