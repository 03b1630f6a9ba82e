"""What a `config.pbtxt` says beyond names and shapes: queues, priorities, warm-up, CUDA graphs. Knows Triton's protobuf and no whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tritonclient.grpc import model_config_pb2 as pb

from .accelerator import Accelerator, read_accelerator, write_accelerator
from .errors import ConfigError

WarmUpData = Literal["zero", "random"]

INTRA_OP_THREADS = "intra_op_thread_count"
INTER_OP_THREADS = "inter_op_thread_count"


@dataclass(frozen=True)
class QueuePolicy:
    """How many requests wait and how long; what does not fit, or waited too long, is rejected (UNAVAILABLE).

    Attributes:
        max_size: requests in the queue; None = no limit.
        timeout_us: in the queue alone, execution does not count; None = no limit.
        callers_shorten: a request's own `timeout` counts where it is shorter.
    """

    max_size: int | None = None
    timeout_us: int | None = None
    callers_shorten: bool = False

    def __post_init__(self) -> None:
        for name, value in (("max_size", self.max_size), ("timeout_us", self.timeout_us)):
            if value is not None and value < 1:
                raise ConfigError(f"queue policy: expected {name} of at least 1 or none, got {value}")
        if self.callers_shorten and self.timeout_us is None:
            raise ConfigError("queue policy: expected a timeout_us that callers can shorten, got none")


@dataclass(frozen=True)
class Priorities:
    """Levels of urgency; 1 is served first.

    Attributes:
        default: the level of requests that name none.
        policies: of levels whose queue differs from the model's.
    """

    levels: int
    default: int
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", dict(self.policies))
        named = {self.default, *self.policies}
        if self.levels < 2 or not named <= set(range(1, self.levels + 1)):
            raise ConfigError(f"priorities: expected two levels or more, and levels of 1 to {self.levels}, got {sorted(named)}")


@dataclass(frozen=True)
class WarmUp:
    """Requests that Triton runs before an instance is ready.

    Attributes:
        batch_size: requests of one tile each that run as one batch.
        count: how often.
    """

    batch_size: int
    count: int = 1
    data: WarmUpData = "zero"

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.count < 1:
            raise ConfigError(f"warm-up: expected batch_size and count of at least 1, got {self.batch_size} and {self.count}")

    @property
    def name(self) -> str:
        """Its name in Triton's log."""
        return f"{self.data}_{self.batch_size}"


@dataclass(frozen=True)
class Options:
    """How one model is run; the defaults are Triton's.

    Attributes:
        gpu_only: KIND_GPU: the model does not load where there is no GPU.
        preferred_batch_sizes: the batcher sends these at once; for engines with a profile per size.
        queue_timeout_us: how long a request may wait; beside `ModelConfig.max_queue_size` the default queue policy.
        callers_shorten: as in `QueuePolicy`.
        warm_ups: before an instance is ready.
        accelerator: of the ONNX Runtime backend.
        cuda_graph_batches: batch sizes that the TensorRT backend captures as CUDA graphs, ascending; other sizes run without.
    """

    gpu_only: bool = False
    preferred_batch_sizes: tuple[int, ...] = ()
    queue_timeout_us: int | None = None
    callers_shorten: bool = False
    priorities: Priorities | None = None
    warm_ups: tuple[WarmUp, ...] = ()
    accelerator: Accelerator | None = None
    cuda_graph_batches: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("preferred_batch_sizes", "warm_ups", "cuda_graph_batches"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self.queue_policy(None)

    def queue_policy(self, max_size: int | None) -> QueuePolicy:
        """The default one, of requests whose level has none of its own."""
        return QueuePolicy(max_size, self.queue_timeout_us, self.callers_shorten)

    def misfit(self, backend: str, max_batch_size: int, cpu_only: bool, has_batcher: bool) -> str | None:
        """What was expected and what came where the options do not suit the model; None where they do."""
        sizes = (*self.preferred_batch_sizes, *self.cuda_graph_batches, *(warm_up.batch_size for warm_up in self.warm_ups))
        if any(not 1 <= size <= max_batch_size for size in sizes):
            return f"expected batch sizes of 1 to max_batch_size = {max_batch_size}, got {sorted(sizes)}"
        for sizes in (self.preferred_batch_sizes, self.cuda_graph_batches, tuple(warm_up.batch_size for warm_up in self.warm_ups)):
            if list(sizes) != sorted(set(sizes)):
                return f"expected ascending, different batch sizes, got {list(sizes)}"
        if not has_batcher and (self.preferred_batch_sizes or self.priorities or self.queue_timeout_us):
            return "expected a queue_delay_us (0 is one) beside preferred batch sizes, priorities and queue timeouts, got none"
        if cpu_only and (self.gpu_only or backend == "tensorrt" or (self.accelerator is not None and self.accelerator.is_gpu)):
            return "expected a model of the CPU alone to have nothing of the GPU, got gpu_only, TensorRT or both"
        if self.gpu_only and self.accelerator is not None and not self.accelerator.is_gpu:
            return f"expected a model of the GPU alone to have no accelerator of the CPU, got {self.accelerator.name}"
        if self.accelerator is not None and backend != "onnxruntime":
            return f"expected an accelerator with backend 'onnxruntime' alone, got it with {backend!r}"
        if self.cuda_graph_batches and backend != "tensorrt":
            return f"expected cuda_graph_batches with backend 'tensorrt' alone, which captures them, got them with {backend!r}"
        return None


def threads_misfit(backend: str, parameters: Mapping[str, str]) -> str | None:
    """What was expected and what came where the thread counts among the parameters cannot be; None where they can."""
    for key in (INTRA_OP_THREADS, INTER_OP_THREADS):
        threads = parameters.get(key)
        if threads is not None and (backend != "onnxruntime" or not threads.isdecimal()):
            return f"expected {key} of 0 (every core) or more, with backend 'onnxruntime' alone, got {threads!r} with {backend!r}"
    return None


def write_options(options: Options, max_queue_size: int | None, message: Any) -> None:
    """Into a ModelConfig message whose inputs and batcher are written already."""
    if message.HasField("dynamic_batching"):
        message.dynamic_batching.preferred_batch_size.extend(options.preferred_batch_sizes)
        _write_queue(options.queue_policy(max_queue_size), options.priorities, message.dynamic_batching)
    _write_warm_ups(options.warm_ups, message)
    _write_cuda_graphs(options.cuda_graph_batches, message)
    write_accelerator(options.accelerator, message)


def read_options(message: Any) -> Options:
    """Out of a ModelConfig message; what `write_options` does not write is left out."""
    batching = message.dynamic_batching
    return Options(
        gpu_only=any(group.kind == pb.ModelInstanceGroup.KIND_GPU for group in message.instance_group),
        preferred_batch_sizes=tuple(batching.preferred_batch_size),
        queue_timeout_us=batching.default_queue_policy.default_timeout_microseconds or None,
        callers_shorten=batching.default_queue_policy.allow_timeout_override,
        priorities=_read_priorities(batching),
        warm_ups=tuple(WarmUp(entry.batch_size, entry.count, _data_of(entry.inputs.values())) for entry in message.model_warmup),
        accelerator=read_accelerator(message.optimization.execution_accelerators),
        cuda_graph_batches=tuple(spec.batch_size for spec in message.optimization.cuda.graph_spec),
    )


def _write_queue(policy: QueuePolicy, priorities: Priorities | None, batching: Any) -> None:
    if policy != QueuePolicy():  # an empty policy leaves no trace
        _write_policy(policy, batching.default_queue_policy)
    if priorities is not None:
        batching.priority_levels = priorities.levels
        batching.default_priority_level = priorities.default
        for level, own in priorities.policies.items():
            _write_policy(own, batching.priority_queue_policy[level])


def _read_priorities(batching: Any) -> Priorities | None:
    if not batching.priority_levels:
        return None
    policies = {level: _read_policy(batching.priority_queue_policy[level]) for level in sorted(batching.priority_queue_policy)}
    return Priorities(batching.priority_levels, batching.default_priority_level, policies)


def _write_warm_ups(warm_ups: Sequence[WarmUp], message: Any) -> None:
    for warm_up in warm_ups:
        added = message.model_warmup.add(name=warm_up.name, batch_size=warm_up.batch_size, count=warm_up.count)
        for tensor in message.input:
            data = added.inputs[tensor.name]
            data.data_type = tensor.data_type
            data.dims.extend(tensor.dims)
            setattr(data, f"{warm_up.data}_data", True)


def _write_cuda_graphs(batches: Sequence[int], message: Any) -> None:
    if batches:
        message.optimization.cuda.graphs = True
    for batch in batches:
        spec = message.optimization.cuda.graph_spec.add(batch_size=batch)
        for tensor in message.input:
            spec.input[tensor.name].dim.extend(tensor.dims)


def _write_policy(policy: QueuePolicy, message: Any) -> None:
    message.timeout_action = pb.ModelQueuePolicy.REJECT
    message.max_queue_size = policy.max_size or 0
    message.default_timeout_microseconds = policy.timeout_us or 0
    message.allow_timeout_override = policy.callers_shorten
    message.SetInParent()


def _read_policy(message: Any) -> QueuePolicy:
    return QueuePolicy(message.max_queue_size or None, message.default_timeout_microseconds or None, message.allow_timeout_override)


def _data_of(inputs: Iterable[Any]) -> WarmUpData:
    return "random" if any(entry.random_data for entry in inputs) else "zero"
