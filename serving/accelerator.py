"""Execution accelerators of Triton's ONNX Runtime backend, as `config.pbtxt` has them. Knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from .errors import ConfigError

AcceleratorName = Literal["openvino", "tensorrt"]

_PROFILE_SHAPES = frozenset({"trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"})
# Of the table in the README of Triton's ONNX Runtime backend (2024), which is what 24.10 knows. OpenVINO's provider ignores parameters
# (onnxruntime_backend#260), so none may look as if it did something.
_ACCELERATOR_PARAMETERS: Mapping[str, frozenset[str]] = {
    "openvino": frozenset(),
    "tensorrt": _PROFILE_SHAPES
    | {
        "precision_mode",
        "max_workspace_size_bytes",
        "trt_engine_cache_enable",
        "trt_engine_cache_path",
        "trt_engine_cache_prefix",
        "trt_timing_cache_enable",
        "trt_timing_cache_path",
        "trt_force_sequential_engine_build",
        "trt_builder_optimization_level",
    },
}
_PRECISIONS = ("FP32", "FP16", "INT8")


@dataclass(frozen=True)
class Accelerator:
    """An execution provider that Triton's ONNX Runtime backend puts before its own: OpenVINO on the CPU, TensorRT on the GPU.

    Attributes:
        parameters: TensorRT's alone. `precision_mode` is for TensorRT 10: 11 has no such switch, precision lies in the graph.
    """

    name: AcceleratorName
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", dict(self.parameters))
        known = _ACCELERATOR_PARAMETERS.get(self.name)
        if known is None:
            raise ConfigError(f"accelerator: expected one of {', '.join(sorted(_ACCELERATOR_PARAMETERS))}, got {self.name!r}")
        unknown = sorted(set(self.parameters) - known)
        if unknown:
            raise ConfigError(f"accelerator {self.name!r}: expected parameters of {sorted(known)}, got {unknown}")
        self._check_tensorrt()

    @property
    def is_gpu(self) -> bool:
        return self.name == "tensorrt"

    def _check_tensorrt(self) -> None:
        given = _PROFILE_SHAPES & set(self.parameters)
        if given and given != _PROFILE_SHAPES:  # without all three, a new batch size rebuilds the engine while a request waits
            raise ConfigError(f"accelerator {self.name!r}: expected all of {sorted(_PROFILE_SHAPES)}, got {sorted(given)}")
        for enable, path in (("trt_engine_cache_enable", "trt_engine_cache_path"), ("trt_timing_cache_enable", "trt_timing_cache_path")):
            if self.parameters.get(enable) == "1" and not self.parameters.get(path):
                raise ConfigError(f"accelerator {self.name!r}: expected {path} beside {enable}, got none")
        precision = self.parameters.get("precision_mode")
        if precision is not None and precision not in _PRECISIONS:
            raise ConfigError(f"accelerator {self.name!r}: expected precision_mode of {', '.join(_PRECISIONS)}, got {precision!r}")


def write_accelerator(accelerator: Accelerator | None, message: Any) -> None:
    """Into a ModelConfig message's `optimization.execution_accelerators`."""
    if accelerator is not None:
        accelerators = message.optimization.execution_accelerators
        entries = accelerators.gpu_execution_accelerator if accelerator.is_gpu else accelerators.cpu_execution_accelerator
        entries.add(name=accelerator.name).parameters.update(accelerator.parameters)


def read_accelerator(accelerators: Any) -> Accelerator | None:
    """Out of `optimization.execution_accelerators`; of several, the first: such a config is refused, since it would be written otherwise."""
    for entry in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator):
        return Accelerator(cast(AcceleratorName, entry.name), dict(entry.parameters))
    return None
