"""A network behind Triton's wheel and our python-based backend on a device: a server for the network, requests of tiles. Knows no figures.

Triton itself sees no GPU in this lane (`serving/launch.py`): the stub of the network does, and hands arrays over through shared memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from clients.served_model import CHANNEL_ARGS
from export.signature import network_signature
from serving.contract import TILE
from serving.embedded import EmbeddedTriton
from serving.errors import InstallationError
from serving.modelconfig import ModelConfig, write_config
from serving.triton_install import FOLDER_VARIABLE, SERVING_FOLDER, TritonInstall, find_install

from .gpu_lanes import LaneMissing
from .gpu_networks import Network

MAX_BATCH = 256
ON_THE_WAY = 4  # requests of a call
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_MODEL = "gpu_net"
_ANSWER_S = 600.0
_BACKEND = SERVING_FOLDER / "backends" / "onnxruntime"
_OWN = Path(__file__).parent
_ASK_PROVIDERS = "import onnxruntime as o; print(o.__version__, *o.get_available_providers())"


@contextmanager
def serve_graph(
    network: Network, graph: Callable[[], bytes], device: str, folder: Path | None
) -> Iterator[Callable[[npt.NDArray[np.uint8]], TileCalls]]:
    """A server for the block; yields what makes a call out of tiles, uint8 (batch, side, side, 3).

    Args:
        graph: exports the network; asked when the environment is found fit.
        device: "cuda" or "cpu".
        folder: environment with Triton's wheel and ONNX Runtime; None = as `histoserve serve` finds it.

    Raises:
        LaneMissing: the environment is not there or does not fit, or has no ONNX Runtime for the device.
        ServingError: the server does not start.
    """
    with _environment(folder), tempfile.TemporaryDirectory(prefix="histoserve-gpu-") as place:
        require_provider(_find_install(), PROVIDERS[device])
        write_model(Path(place), network, graph(), device)
        with EmbeddedTriton(Path(place), [_MODEL]) as server:
            client = grpcclient.InferenceServerClient(server.address, channel_args=CHANNEL_ARGS)
            try:
                yield lambda tiles: TileCalls(client, tiles)
            finally:
                client.close()


def write_model(repository: Path, network: Network, graph: bytes, device: str) -> None:
    """The network as a python model whose code is our backend's, with the engine for the device."""
    signature = network_signature(network.kind, network.task, network.cell_px)
    parameters = {"provider": PROVIDERS[device], "visible_devices": _visible_devices(device), "histoserve_engine": "onnxruntime"}
    config = ModelConfig(_MODEL, "python", signature.inputs, signature.outputs, MAX_BATCH, parameters, cpu_only=True)
    version = repository / _MODEL / "1"
    version.mkdir(parents=True)
    write_config(repository / _MODEL, config)
    (version / "model.onnx").write_bytes(graph)
    for source, name in (
        (_OWN / "gpu_triton_model.py", "model.py"),
        (_OWN / "gpu_triton_engine.py", "runtime_engine.py"),
        (_BACKEND / "model.py", "python_backend.py"),
        (_BACKEND / "runtime_engine.py", "cpu_engine.py"),
        (_BACKEND / "engine_choice.py", "engine_choice.py"),
    ):
        shutil.copyfile(source, version / name)


def require_provider(install: TritonInstall, provider: str) -> None:
    """Raises LaneMissing where the ONNX Runtime beside the server was built without it."""
    done = subprocess.run([str(install.python), "-I", "-c", _ASK_PROVIDERS], capture_output=True, text=True, check=False)
    version, *providers = done.stdout.split() or ["that does not load"]
    if provider not in providers:
        raise LaneMissing(f"{install.folder}: onnxruntime {version} is without {provider}: give --onnxruntime-wheel or --triton")


def _find_install() -> TritonInstall:
    try:
        return find_install()
    except InstallationError as error:
        raise LaneMissing(f"{error} (or give --triton, or --triton-wheel and --onnxruntime-wheel)") from error


@contextmanager
def _environment(folder: Path | None) -> Iterator[None]:
    """The folder as `serving` is told of it."""
    before = os.environ.get(FOLDER_VARIABLE)
    if folder is not None:
        os.environ[FOLDER_VARIABLE] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(FOLDER_VARIABLE, None)
        if before is not None:
            os.environ[FOLDER_VARIABLE] = before


def _visible_devices(device: str) -> str:
    """As this process sees them; none for the CPU."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "0") if device == "cuda" else ""


class TileCalls:
    """Requests of the same tiles. A call sends some at a time, so that one is computed while others travel, and waits for all of them.

    Args:
        tiles: uint8 (batch, side, side, 3).

    Attributes:
        batches: of one call.
    """

    batches = ON_THE_WAY

    def __init__(self, client: grpcclient.InferenceServerClient, tiles: npt.NDArray[np.uint8]) -> None:
        self._client = client
        self._input = grpcclient.InferInput(TILE, list(tiles.shape), "UINT8")
        self._input.set_data_from_numpy(tiles)

    def __call__(self) -> list[Any]:
        """tritonclient's InferResults. Raises InferenceServerException where a request failed."""
        sent = [self._send() for _ in range(self.batches)]
        return [future.result(_ANSWER_S) for future in sent]

    def _send(self) -> Future[Any]:
        future: Future[Any] = Future()

        def done(result: Any, error: InferenceServerException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._client.async_infer(_MODEL, [self._input], done)
        return future
