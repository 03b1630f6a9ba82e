"""Triton's `config.pbtxt` as frozen dataclasses, through Triton's own protobuf. Knows the fields that histoserve writes and refuses every other."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from .contract import Contract
from .errors import ConfigError
from .modeloptions import Options, read_options, threads_misfit, write_options

FILE_NAME = "config.pbtxt"
ONNX_FILE = "model.onnx"
PYTHON_FILE = "model.py"
PLAN_FILE = "model.plan"
_DEFAULT_FILES = {"onnxruntime": ONNX_FILE, "python": PYTHON_FILE, "tensorrt": PLAN_FILE}


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        data_type: Triton's name, e.g. "TYPE_UINT8".
        dims: without the batch; static.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(self.dims))
        if not self.name:
            raise ConfigError("tensor: expected a name, got an empty string")
        if self.data_type not in pb.DataType.keys() or self.data_type == "TYPE_INVALID":  # noqa: SIM118 (an enum wrapper, not a dict)
            raise ConfigError(f"tensor {self.name!r}: expected a data type such as TYPE_UINT8, got {self.data_type!r}")
        if not self.dims or any(side < 1 for side in self.dims):
            raise ConfigError(f"tensor {self.name!r}: expected static dims of at least 1, got {list(self.dims)}")


@dataclass(frozen=True)
class ModelConfig:
    """A model of its own: an ONNX graph or a python step.

    Attributes:
        queue_delay_us: how long the batcher waits to fill a batch; 0 = batches only what is already queued; None = no batching
            over requests.
        max_queue_size: more requests than these in the queue are rejected (UNAVAILABLE); needs a `queue_delay_us`. None = no limit.
        cpu_only: KIND_CPU; else, without `options.gpu_only`, Triton chooses (KIND_AUTO: the GPU where there is one).
        options: queue timeouts, priorities, warm-up, accelerators, CUDA graphs. Threads of the ONNX Runtime backend are `parameters`.

    There is no response cache: tiles do not come twice, and parsing refuses a configuration that enables it.
    """

    name: str
    backend: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int
    parameters: Mapping[str, str] = field(default_factory=dict)
    queue_delay_us: int | None = None
    max_queue_size: int | None = None
    instance_count: int = 1
    cpu_only: bool = False
    options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        _freeze(self)
        _check_common(self)
        if self.backend not in _DEFAULT_FILES:
            raise ConfigError(f"model {self.name!r}: expected a backend of {', '.join(sorted(_DEFAULT_FILES))}, got {self.backend!r}")
        if self.instance_count < 1:
            raise ConfigError(f"model {self.name!r}: expected instance_count of at least 1, got {self.instance_count}")
        if self.queue_delay_us is not None and self.queue_delay_us < 0:
            raise ConfigError(f"model {self.name!r}: expected queue_delay_us of at least 0, got {self.queue_delay_us}")
        if self.max_queue_size is not None and (self.queue_delay_us is None or self.max_queue_size < 1):
            raise ConfigError(
                f"model {self.name!r}: expected max_queue_size of at least 1 together with a queue_delay_us (0 is one), "
                f"got {self.max_queue_size} with {self.queue_delay_us}"
            )
        options_misfit = self.options.misfit(self.backend, self.max_batch_size, self.cpu_only, self.queue_delay_us is not None)
        misfit = options_misfit or threads_misfit(self.backend, self.parameters)
        if misfit is not None:
            raise ConfigError(f"model {self.name!r}: {misfit}")

    @property
    def file_name(self) -> str:
        """The file in the version folder that the backend loads."""
        return _DEFAULT_FILES[self.backend]


@dataclass(frozen=True)
class Step:
    """One model of an ensemble; both maps go from the step's own tensor name to the name within the ensemble."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class EnsembleConfig:
    """Models chained by tensor names."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    max_batch_size: int
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _freeze(self)
        object.__setattr__(self, "steps", tuple(self.steps))
        _check_common(self)
        if not self.steps:
            raise ConfigError(f"ensemble {self.name!r}: expected at least one step, got none")
        produced = set(self.steps[-1].outputs.values())
        missing = [tensor.name for tensor in self.outputs if tensor.name not in produced]
        if missing:  # Triton's pruning drops the producer of an output that another step consumes: serving.md §1.4
            raise ConfigError(
                f"ensemble {self.name!r}: expected every output to come from the last step {self.steps[-1].model!r}, "
                f"but {missing} does not: let the last step pass it through"
            )


Config = ModelConfig | EnsembleConfig


def contract_of(config: Config) -> Contract:
    """The contract that the config's parameters carry.

    Raises:
        ContractError: they carry none, or a malformed one.
    """
    return Contract.from_parameters(config.parameters)


def to_text(config: Config) -> str:
    """The content of `config.pbtxt`; loads in Triton 2.51 (24.10) and later."""
    message = _ensemble_message(config) if isinstance(config, EnsembleConfig) else _model_message(config)
    text: str = text_format.MessageToString(message, as_utf8=True)
    return text


def parse_text(text: str) -> Config:
    """Parse what `to_text` wrote; the only parser.

    Raises:
        ConfigError: no protobuf text, or one with fields that histoserve does not write.
    """
    message = pb.ModelConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise ConfigError(f"expected the protobuf text of a model configuration: {error}") from error
    config = _parse_ensemble(message) if message.HasField("ensemble_scheduling") else _parse_model(message)
    rewritten = _ensemble_message(config) if isinstance(config, EnsembleConfig) else _model_message(config)
    if rewritten != message:
        raise ConfigError(
            f"model {message.name!r}: expected only fields that histoserve writes, got others as well: export the model again"
        )
    return config


def write_config(folder: Path, config: Config) -> None:
    """Write `folder`/config.pbtxt; the folder must bear the model's name, as Triton demands."""
    if folder.name != config.name:
        raise ConfigError(f"model {config.name!r}: expected a folder of that name, got {folder}")
    (folder / FILE_NAME).write_text(to_text(config), encoding="utf-8")


def read_config(folder: Path) -> Config:
    """Read `folder`/config.pbtxt.

    Raises:
        ConfigError: it is missing or malformed, or names another model than the folder.
    """
    path = folder / FILE_NAME
    try:
        config = parse_text(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{folder}: expected a model folder with {FILE_NAME}, got none: export the model again") from None
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if config.name != folder.name:
        raise ConfigError(f"{path}: expected the name of its folder, got {config.name!r}")
    return config


def _freeze(config: Config) -> None:
    for name in ("inputs", "outputs"):
        object.__setattr__(config, name, tuple(getattr(config, name)))
    object.__setattr__(config, "parameters", dict(config.parameters))


def _check_common(config: Config) -> None:
    if not config.name or "/" in config.name or config.name.startswith("."):
        raise ConfigError(f"model: expected a name that can be a folder's, got {config.name!r}")
    if config.max_batch_size < 1:
        raise ConfigError(f"model {config.name!r}: expected max_batch_size of at least 1, got {config.max_batch_size}")
    for kind, tensors in (("input", config.inputs), ("output", config.outputs)):
        names = [tensor.name for tensor in tensors]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"model {config.name!r}: expected {kind}s with different names, got {names}")


def _common_message(config: Config) -> Any:
    message = pb.ModelConfig(name=config.name, max_batch_size=config.max_batch_size)
    for tensor in config.inputs:
        message.input.add(name=tensor.name, data_type=pb.DataType.Value(tensor.data_type), dims=tensor.dims)
    for tensor in config.outputs:
        message.output.add(name=tensor.name, data_type=pb.DataType.Value(tensor.data_type), dims=tensor.dims)
    for key, value in config.parameters.items():
        message.parameters[key].string_value = value
    return message


def _model_message(config: ModelConfig) -> Any:
    message = _common_message(config)
    message.backend = config.backend
    message.default_model_filename = config.file_name
    kind = "KIND_CPU" if config.cpu_only else "KIND_GPU" if config.options.gpu_only else "KIND_AUTO"
    message.instance_group.add(count=config.instance_count, kind=pb.ModelInstanceGroup.Kind.Value(kind))
    if config.queue_delay_us is not None:
        message.dynamic_batching.SetInParent()
        message.dynamic_batching.max_queue_delay_microseconds = config.queue_delay_us
    write_options(config.options, config.max_queue_size, message)
    return message


def _ensemble_message(config: EnsembleConfig) -> Any:
    message = _common_message(config)
    message.platform = "ensemble"
    for step in config.steps:
        added = message.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
        added.input_map.update(step.inputs)
        added.output_map.update(step.outputs)
    return message


def _tensors(fields: Any) -> tuple[Tensor, ...]:
    return tuple(Tensor(entry.name, pb.DataType.Name(entry.data_type), tuple(entry.dims)) for entry in fields)


def _parameters(message: Any) -> dict[str, str]:
    return {key: message.parameters[key].string_value for key in sorted(message.parameters)}


def _parse_model(message: Any) -> ModelConfig:
    if len(message.instance_group) != 1:
        raise ConfigError(f"model {message.name!r}: expected one instance_group, got {len(message.instance_group)}: export the model again")
    group = message.instance_group[0]
    batching = message.dynamic_batching if message.HasField("dynamic_batching") else None
    return ModelConfig(
        name=message.name,
        backend=message.backend,
        inputs=_tensors(message.input),
        outputs=_tensors(message.output),
        max_batch_size=message.max_batch_size,
        parameters=_parameters(message),
        queue_delay_us=None if batching is None else batching.max_queue_delay_microseconds,
        max_queue_size=None if batching is None else batching.default_queue_policy.max_queue_size or None,
        instance_count=group.count,
        cpu_only=group.kind == pb.ModelInstanceGroup.KIND_CPU,
        options=read_options(message),
    )


def _parse_ensemble(message: Any) -> EnsembleConfig:
    steps = tuple(Step(entry.model_name, dict(entry.input_map), dict(entry.output_map)) for entry in message.ensemble_scheduling.step)
    return EnsembleConfig(
        name=message.name,
        inputs=_tensors(message.input),
        outputs=_tensors(message.output),
        steps=steps,
        max_batch_size=message.max_batch_size,
        parameters=_parameters(message),
    )


def replaced(config: EnsembleConfig, name: str) -> EnsembleConfig:
    """The same ensemble under another name: how the callers' entry is made from the frozen one."""
    return dataclasses.replace(config, name=name)
