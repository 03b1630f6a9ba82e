"""How a release's models are run on a CPU or a GPU (`--target`), as data over their configurations. Knows Triton's options, no graph and no file.

The target changes how fast a release answers and where it loads, never what it is: names, tensors and graphs stay. Without a target a
configuration stays as it is, and runs everywhere.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from serving.accelerator import Accelerator
from serving.cpu_batches import RUN_ROWS
from serving.modelconfig import ModelConfig
from serving.modeloptions import INTER_OP_THREADS, INTRA_OP_THREADS, Options, Priorities, QueuePolicy, WarmUp

from .errors import EngineError
from .tensorrt_engine import WORKSPACE_BYTES, BatchProfile
from .to_onnx import MAX_BATCH

TargetName = Literal["cpu", "gpu"]
Role = Literal["network", "combine"]

# Callers who look at one tile (priority 1) overtake slides, which name no priority: serving.md §1.1.
INTERACTIVE, SLIDES = 1, 2
ENGINE_CACHE = "/engines"  # where the container mounts a folder that outlives it; without one, every start builds for minutes
_CLIENT_BATCHES = tuple(2**power for power in range(MAX_BATCH.bit_length()))  # 1, 2, 4 … 64: captured graphs fit exact sizes alone
_ENGINE_OPTIMIZATION_LEVEL = 5


@dataclass(frozen=True)
class Queue:
    """How many requests may wait for a network and how long, per urgency; a request is a batch. Beyond, it is answered UNAVAILABLE.

    Attributes:
        size: requests of slides.
        timeout_s: of slides; covers the whole queue at the speed the target expects.
        interactive_size: requests that name priority 1.
    """

    size: int
    timeout_s: int
    interactive_size: int
    interactive_timeout_s: int

    def apply(self, config: ModelConfig) -> ModelConfig:
        """The configuration with this queue; one without a batcher has no queue to limit."""
        urgent = QueuePolicy(self.interactive_size, self.interactive_timeout_s * 10**6, callers_shorten=True)
        options = dataclasses.replace(
            config.options,
            queue_timeout_us=self.timeout_s * 10**6,
            callers_shorten=True,
            priorities=Priorities(levels=SLIDES, default=SLIDES, policies={INTERACTIVE: urgent}),
        )
        return dataclasses.replace(config, max_queue_size=self.size, options=options)


@dataclass(frozen=True)
class CpuTarget:
    """KIND_CPU with counted threads.

    Attributes:
        instances: of the network; they share the machine, so instances × threads should be its cores.
        threads: of one instance; 0 = every core.
        openvino: let the native backend run the graph through OpenVINO. Off: the container's backend cannot load it since 25.02
            (onnxruntime_backend#300), and the release must have passed parity in OpenVINO.
        warm_up_batch: run before ready, since the first request of a size otherwise pays for its memory.
    """

    instances: int = 1
    threads: int = 0
    openvino: bool = False
    queue: Queue = Queue(size=64, timeout_s=120, interactive_size=16, interactive_timeout_s=30)
    warm_up_batch: int = 1

    def apply(self, config: ModelConfig, role: Role) -> ModelConfig:
        """The configuration on this target; the combine graph is arithmetic on a few values and takes one thread."""
        is_network = role == "network"
        threads = {INTRA_OP_THREADS: str(self.threads if is_network else 1), INTER_OP_THREADS: "1"}
        options = Options(
            preferred_batch_sizes=(RUN_ROWS,) if is_network else (),
            warm_ups=(WarmUp(self.warm_up_batch),),
            accelerator=Accelerator("openvino") if self.openvino and is_network else None,
        )
        placed = dataclasses.replace(
            config,
            cpu_only=True,
            instance_count=self.instances if is_network else 1,
            parameters={**config.parameters, **threads},
            options=options,
        )
        return self.queue.apply(placed) if is_network else placed


@dataclass(frozen=True)
class GpuTarget:
    """KIND_GPU: the network through TensorRT, built by Triton's ONNX Runtime backend or beforehand.

    The combine graph runs on CUDA through ONNX Runtime: it must keep the rule exactly, and TensorRT may reorder its arithmetic.

    Attributes:
        profile: of the engine; also what the warm-up runs at, so that a missing engine is built before the server is ready.
        instances: two overlap copies with computing; more rarely help.
        has_engine: `model.plan` lies in the version folder (`tensorrt_engine.build_engine`): backend `tensorrt`, with CUDA graphs.
        graph_batches: batch sizes captured as CUDA graphs; needs `has_engine`, the other way has none.
        engine_cache: folder for the engines that ONNX Runtime builds.
    """

    profile: BatchProfile = field(default_factory=BatchProfile)
    instances: int = 2
    has_engine: bool = False
    graph_batches: tuple[int, ...] = _CLIENT_BATCHES
    engine_cache: str = ENGINE_CACHE
    queue: Queue = Queue(size=512, timeout_s=30, interactive_size=64, interactive_timeout_s=2)

    def apply(self, config: ModelConfig, role: Role) -> ModelConfig:
        """The configuration on this target.

        Raises:
            EngineError: the engine would not take the batches that the ensembles promise.
        """
        if role == "combine":
            return dataclasses.replace(config, options=Options(gpu_only=True))
        if self.profile.max != config.max_batch_size:
            raise EngineError(f"model {config.name!r}: expected a batch profile up to {config.max_batch_size}, got {self.profile}")
        options = Options(
            gpu_only=True,
            warm_ups=(WarmUp(self.profile.opt, count=3),),
            accelerator=None if self.has_engine else self._accelerator(config),
            cuda_graph_batches=self._captured() if self.has_engine else (),
        )
        backend = "tensorrt" if self.has_engine else config.backend
        parameters = {key: value for key, value in config.parameters.items() if key not in (INTRA_OP_THREADS, INTER_OP_THREADS)}
        return self.queue.apply(
            dataclasses.replace(config, backend=backend, instance_count=self.instances, parameters=parameters, options=options)
        )

    def _captured(self) -> tuple[int, ...]:
        return tuple(batch for batch in self.graph_batches if self.profile.min <= batch <= self.profile.max)

    def _accelerator(self, config: ModelConfig) -> Accelerator:
        """Explicit profiles: else each new batch size rebuilds the engine while its request waits. No precision_mode: it lies in the graph."""
        low, middle, high = self.profile.texts(config.inputs)
        parameters = {
            "max_workspace_size_bytes": str(WORKSPACE_BYTES),
            "trt_builder_optimization_level": str(_ENGINE_OPTIMIZATION_LEVEL),
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": self.engine_cache,
            "trt_engine_cache_prefix": config.name,
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": self.engine_cache,
            "trt_force_sequential_engine_build": "1",  # instances start together, and would all build the same engine
            "trt_profile_min_shapes": low,
            "trt_profile_opt_shapes": middle,
            "trt_profile_max_shapes": high,
        }
        return Accelerator("tensorrt", parameters)


Target = CpuTarget | GpuTarget
TARGETS: dict[TargetName, Target] = {"cpu": CpuTarget(), "gpu": GpuTarget()}


def apply_target(config: ModelConfig, target: Target | None, role: Role) -> ModelConfig:
    """The configuration of a network or combine graph on a target; None leaves it as it is.

    Args:
        config: of an ONNX graph, as `layout` makes it.

    Raises:
        ConfigError: the target does not suit the model, e.g. warm-up beyond its largest batch.
    """
    return config if target is None else target.apply(config, role)
