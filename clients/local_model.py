"""A release's network in this process, in the engines of the server's own backend: the same code, hence the same values. Knows no slide."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from serving.check import VERSION, check_repository, parse_contract
from serving.contract import SLIDE_OUTPUTS, TILE, Contract
from serving.engines import Engine, RuntimeName, is_installed, load_engine
from serving.modelconfig import Config, EnsembleConfig, ModelConfig
from serving.modeloptions import INTER_OP_THREADS, INTRA_OP_THREADS

from .errors import ServerError

Tag = TypeVar("Tag")
_ONNX_RUNTIME: RuntimeName = "onnxruntime"
_THREADS = ((INTRA_OP_THREADS, "0"), (INTER_OP_THREADS, "1"))  # 0: every core
_ENGINE_VARIABLE, _ENGINE_PARAMETER = "HISTOSERVE_ENGINE", "histoserve_engine"


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
        net, self._names = _network(configs, contract)
        runtime = runtime or _chosen_runtime(net)
        if not is_installed(runtime):
            raise ServerError(f"--engine: expected the package {runtime}, it is not installed: pip install 'histoserve[local]'")
        path = repository / net.name / VERSION / net.file_name
        try:
            self._engine = _load(runtime, path, net)
        except Exception as error:  # each runtime has errors of its own
            raise ServerError(f"{path}: {runtime} cannot load this network: {error}: export the model again") from error
        self.engine = f"{runtime} {self._engine.version} in the client"

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
                rows = self._engine.run({TILE: np.ascontiguousarray(tiles)}, list(self._names.values()))
            except Exception as error:
                raise ServerError(f"model {self.contract.slide_model!r}: {self.engine} failed on a batch: {error}") from error
            yield tag, {name: rows[own] for name, own in self._names.items()}


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
    return "openvino" if is_installed("openvino") else _ONNX_RUNTIME


def _load(runtime: RuntimeName, path: Path, net: ModelConfig) -> Engine:
    """With the threads that the network's configuration names, as the server gives them."""
    threads, inter_op_threads = (int(net.parameters.get(key, default)) for key, default in _THREADS)
    return load_engine(runtime, str(path), threads, inter_op_threads)
