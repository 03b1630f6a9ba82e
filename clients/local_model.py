"""A release's network in this process, as the embedded server would run it. The only module that imports ONNX Runtime or OpenVINO; knows no slide."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from serving.check import VERSION, check_repository, parse_contract
from serving.contract import TILE, Contract
from serving.modelconfig import Config, EnsembleConfig, ModelConfig

from .errors import ServerError
from .served_model import SLIDE_OUTPUTS

Tag = TypeVar("Tag")
Arrays = Mapping[str, npt.NDArray[Any]]
RuntimeName = Literal["onnxruntime", "openvino"]
_ONNX_RUNTIME: RuntimeName = "onnxruntime"
_ENGINE_VARIABLE, _ENGINE_PARAMETER = "HISTOSERVE_ENGINE", "histoserve_engine"


class _Graph(Protocol):
    def run(self, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]: ...


class LocalModel:
    """Answers tiles one batch after the other; what it says, the same runtime in the embedded server says too, bit for bit.

    Args:
        model: the callers' entry, e.g. "demo_segment".
        runtime: what computes; None = what the embedded server would choose: OpenVINO where it is installed, unless the network's configuration
            or $HISTOSERVE_ENGINE says onnxruntime.

    Attributes:
        engine: the runtime and its version.

    Raises:
        ServerError: the runtime is not installed, the model is no entry of ours, or its network cannot run here.
        ServingError: the repository lacks the model, or a part of it.
    """

    def __init__(self, repository: Path, model: str, runtime: RuntimeName | None = None) -> None:
        configs = check_repository(repository, [model])
        contract = parse_contract(configs[model])
        if contract is None:
            raise ServerError(
                f"{repository}: model {model!r}: expected an entry such as demo_segment, this one has no contract: check --model"
            )
        self.contract: Contract = contract
        self.model = model
        self.max_batch = configs[contract.slide_model].max_batch_size
        net, names = _network(configs, contract)
        runtime = runtime or _chosen_runtime(net)
        if not _is_installed(runtime):
            raise ServerError(f"--engine: expected the package {runtime}, it is not installed: pip install 'histoserve[local]'")
        path = repository / net.name / VERSION / net.file_name
        make: Callable[[Path, ModelConfig, Mapping[str, str]], _Graph] = _OpenVinoGraph if runtime == "openvino" else _OnnxGraph
        try:
            self._graph = make(path, net, names)
        except Exception as error:  # each runtime has errors of its own
            raise ServerError(f"{path}: {runtime} cannot load this network: {error}: export the model again") from error
        self.engine = f"{runtime} {importlib.import_module(runtime).__version__} in the client"

    def give_up(self) -> None:
        """Nothing is waited for here."""

    def stream(
        self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int
    ) -> Iterator[tuple[Tag, dict[str, npt.NDArray[Any]]]]:
        """Answers in the order of the batches; `in_flight` is for models elsewhere.

        Raises:
            ServerError: the runtime fails on a batch.
        """
        for tag, tiles in batches:
            try:
                outputs = self._graph.run(np.ascontiguousarray(tiles))
            except Exception as error:
                raise ServerError(f"model {self.contract.slide_model!r}: {self.engine} failed on a batch: {error}") from error
            yield tag, outputs


def _network(configs: Mapping[str, Config], contract: Contract) -> tuple[ModelConfig, dict[str, str]]:
    """The one network behind the slide model, and its own names of the outputs that are wanted."""
    slide = configs[contract.slide_model]
    if not isinstance(slide, EnsembleConfig) or len(slide.steps) != 1:
        raise ServerError(f"model {contract.slide_model!r}: expected an ensemble of the network alone: export the model again")
    (step,) = slide.steps
    net = configs[step.model]
    if not isinstance(net, ModelConfig) or net.backend != "onnxruntime":
        raise ServerError(f"model {step.model!r}: expected an ONNX network, which --engine local can run: use a server for it")
    own_names = {theirs: own for own, theirs in step.outputs.items()}
    return net, {name: own_names[name] for name in SLIDE_OUTPUTS[contract.kind]}


def _chosen_runtime(net: ModelConfig) -> RuntimeName:
    """The rule of `serving/backends/onnxruntime/engine_choice.py`, which runs in the server's own environment."""
    if _ONNX_RUNTIME in (os.environ.get(_ENGINE_VARIABLE), net.parameters.get(_ENGINE_PARAMETER)):
        return _ONNX_RUNTIME
    return "openvino" if _is_installed("openvino") else _ONNX_RUNTIME


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


class _OnnxGraph:
    def __init__(self, path: Path, net: ModelConfig, names: Mapping[str, str]) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        threads = net.parameters.get("intra_op_thread_count")
        if threads is not None:  # as the server does, else ONNX Runtime takes every core
            options.intra_op_num_threads = int(threads)
        # The decoding threads want the cores between two batches.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._names = dict(names)

    def run(self, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(self._names, self._session.run(list(self._names.values()), {TILE: tiles}), strict=True))


class _OpenVinoGraph:
    """Cut down to the outputs that are wanted, with the server's settings: in float32 whatever the processor would prefer."""

    def __init__(self, path: Path, net: ModelConfig, names: Mapping[str, str]) -> None:
        if "openvino" not in sys.modules:  # importing it sends an event to its maker, unless this package cannot be imported
            sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        openvino = importlib.import_module("openvino")
        core = openvino.Core()
        whole = core.read_model(str(path))
        wanted = [result for result in whole.get_results() if result.output(0).get_any_name() in names.values()]
        part = openvino.Model(wanted, whole.get_parameters(), whole.get_friendly_name())
        threads = net.parameters.get("intra_op_thread_count")
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        settings |= {"INFERENCE_NUM_THREADS": int(threads)} if threads is not None else {}
        self._request = core.compile_model(part, "CPU", settings).create_infer_request()
        self._names = dict(names)

    def run(self, tiles: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        self._request.start_async({TILE: tiles})  # infer() with one thread swallows errors (2026.4.1)
        self._request.wait()
        # OpenVINO uses its memory again at the next run.
        return {name: self._request.get_tensor(own).data.copy() for name, own in self._names.items()}
