"""Builds a TensorRT engine from a checked graph, for one GPU and one version. Imports TensorRT only when it builds, and refuses clearly without it.

Written to the documentation of TensorRT 10.12 and 11; see export/README.md for what was run and what was not.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from serving.modelconfig import Tensor

from .errors import EngineError
from .tensorrt_layers import LayerReport, asked_types, check_layers
from .tensorrt_rules import check_tensorrt
from .to_onnx import MAX_BATCH

PACKAGE = "tensorrt>=10.12,<12"  # before 10.12 strong typing was young; 12 is unknown
_OLDEST, _BEYOND = (10, 12), (12, 0)
_OPTIMIZATION_LEVEL = 5  # the highest: builds for minutes, and the attention of Swin needs it (serving.md §4.2)
WORKSPACE_BYTES = 4 * 2**30
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")


@dataclass(frozen=True)
class BatchProfile:
    """The batch sizes that one engine is built for; `opt` is what it is tuned to."""

    min: int = 1
    opt: int = MAX_BATCH
    max: int = MAX_BATCH

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise EngineError(f"batch profile: expected 1 ≤ min ≤ opt ≤ max, got {self.min}, {self.opt}, {self.max}")

    def shapes(self, inputs: Sequence[Tensor]) -> dict[str, tuple[tuple[int, ...], ...]]:
        """Input name → its shapes at min, opt and max."""
        return {tensor.name: tuple((batch, *tensor.dims) for batch in (self.min, self.opt, self.max)) for tensor in inputs}

    def texts(self, inputs: Sequence[Tensor]) -> tuple[str, str, str]:
        """The shapes at min, opt and max as trtexec and ONNX Runtime write them: `TILE:1x224x224x3`, commas between inputs."""
        low, middle, high = (
            ",".join(f"{name}:{'x'.join(map(str, shapes[index]))}" for name, shapes in self.shapes(inputs).items()) for index in range(3)
        )
        return low, middle, high


@dataclass(frozen=True)
class Engine:
    """An engine on disk whose layers run in the types that its graph asked for."""

    path: Path
    report: LayerReport


def engine_name(graph_sha256: str, tensorrt_version: str, gpu: str, profile: BatchProfile) -> str:
    """The file of an engine: a plan runs on the GPU and the version it was built with alone."""
    return f"{graph_sha256[:16]}-trt{tensorrt_version}-{_slug(gpu)}-b{profile.min}-{profile.opt}-{profile.max}.plan"


def timing_cache_path(folder: Path, tensorrt_version: str, gpu: str) -> Path:
    """Measured kernels, shared by all engines of one GPU and version; of another they would be refused."""
    return folder / f"timing-trt{tensorrt_version}-{_slug(gpu)}.cache"


def trtexec_command(graph: Path, plan: Path, timing_cache: Path, inputs: Sequence[Tensor], profile: BatchProfile) -> list[str]:
    """The command line that builds the same engine as `build_engine`, times it at `opt` and writes its layers to `<plan>.json`.

    `--stronglyTyped` is needed by TensorRT 10 and does nothing in 11. The layers' types are there only because it runs the engine too.
    """
    low, middle, high = profile.texts(inputs)
    return [
        "trtexec",
        f"--onnx={graph}",
        "--stronglyTyped",
        f"--minShapes={low}",
        f"--optShapes={middle}",
        f"--maxShapes={high}",
        f"--builderOptimizationLevel={_OPTIMIZATION_LEVEL}",
        f"--memPoolSize=workspace:{WORKSPACE_BYTES // 2**20}M",
        "--noTF32",
        f"--timingCacheFile={timing_cache}",
        "--profilingVerbosity=detailed",
        f"--exportLayerInfo={plan}.json",
        f"--saveEngine={plan}",
    ]


def gpu_name() -> str:
    """The GPU's name, e.g. "NVIDIA H100 80GB HBM3".

    Raises:
        EngineError: there is none, or there are different ones.
    """
    try:
        answer = subprocess.run(_GPU_QUERY, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise EngineError(
            f"engine: expected a GPU, but {shlex.join(_GPU_QUERY)} failed ({error}): build on the machine that serves"
        ) from error
    return parse_gpu_names(answer.stdout)


def parse_gpu_names(answer: str) -> str:
    """The one name that nvidia-smi gave for every GPU.

    Raises:
        EngineError: none, or different ones: TensorRT would build for the first, whichever that is.
    """
    names = sorted({line.strip() for line in answer.splitlines() if line.strip()})
    if len(names) != 1:
        raise EngineError(f"engine: expected GPUs of one kind, got {names}: build where only the kind that serves is visible")
    return names[0]


def build_engine(model: onnx.ModelProto, inputs: Sequence[Tensor], profile: BatchProfile, folder: Path) -> Engine:
    """Build the engine of a graph for the GPU of this machine; one that is there under its name is read instead.

    Args:
        inputs: the graph's inputs, dims without the batch.
        folder: of engines and timing caches; made where it does not exist.

    Raises:
        GraphError: the graph breaks a rule of TensorRT.
        EngineError: no TensorRT or GPU here, TensorRT refuses the graph, or the engine does not run in the graph's types.
    """
    check_tensorrt(model)
    content = model.SerializeToString(deterministic=True)
    digest = hashlib.sha256(content).hexdigest()
    there = Path(f"{digest[:16]}.plan"), Path("timing.cache")
    trt = load_tensorrt(shlex.join(trtexec_command(Path("model.onnx"), *there, inputs, profile)))
    gpu = gpu_name()
    path = folder / engine_name(digest, trt.__version__, gpu, profile)
    logger = _make_logger(trt)
    is_built = path.exists()
    plan = (
        path.read_bytes()
        if is_built
        else _build(trt, logger, content, profile.shapes(inputs), timing_cache_path(folder, trt.__version__, gpu))
    )
    report = check_layers(path.name, asked_types(model), _inspect(trt, logger, plan, path.name, profile.shapes(inputs)))
    if not is_built:
        write_atomically(path, plan)
    return Engine(path, report)


def load_tensorrt(command: str) -> Any:
    """The module `tensorrt` of a version that this builder was written for.

    Args:
        command: what builds the same engine where TensorRT is.

    Raises:
        EngineError: it is not installed, or of another version.
    """
    remedy = f"on the machine with the GPU, pip install '{PACKAGE}' and call again, or run there: {command}"
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(f"engine: expected the package {PACKAGE}, it cannot be imported here ({error}): {remedy}") from error
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if not _OLDEST <= version < _BEYOND:
        raise EngineError(f"engine: expected the package {PACKAGE}, got {trt.__version__}: {remedy}")
    return trt


def write_atomically(path: Path, content: bytes) -> None:
    """Whole or not at all, also for those who read meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")  # not tempfile's: Triton, which may be another user, could not read that
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _build(trt: Any, logger: Any, content: bytes, shapes: Mapping[str, tuple[tuple[int, ...], ...]], cache_path: Path) -> bytes:
    builder = trt.Builder(logger)
    # Without the flag TensorRT 10 chooses precisions itself; 11 takes it and always does as it says.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, logger, network, content)
    config = builder.create_builder_config()
    config.builder_optimization_level = _OPTIMIZATION_LEVEL
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector gives names alone
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default: float32 with a mantissa of 10 bits, which parity would not pass
    profile = builder.create_optimization_profile()
    for name, (low, middle, high) in shapes.items():
        profile.set_shape(name, low, middle, high)
    if config.add_optimization_profile(profile) < 0:
        raise EngineError(f"engine: TensorRT refuses the profile {dict(shapes)}: {logger.text()}")
    cache = config.create_timing_cache(cache_path.read_bytes() if cache_path.exists() else b"")
    if not config.set_timing_cache(cache, False):
        raise EngineError(f"{cache_path}: TensorRT refuses this timing cache, it is of another GPU or version: delete it")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"engine: TensorRT could not build it: {logger.text()}")
    write_atomically(cache_path, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _parse(trt: Any, logger: Any, network: Any, content: bytes) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        listed = "; ".join(f"{error.node_operator()} {error.node_name()!r}: {error.desc()}" for error in errors)
        raise EngineError(f"engine: TensorRT {trt.__version__} cannot read the graph: {listed or logger.text()}")


def _inspect(trt: Any, logger: Any, plan: bytes, name: str, shapes: Mapping[str, tuple[tuple[int, ...], ...]]) -> str:
    """The inspector's JSON at the batch that the engine is tuned to; formats are shown only where every shape is known."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"engine {name!r}: TensorRT {trt.__version__} cannot load it: {logger.text()}: delete it and build again")
    context = engine.create_execution_context()
    for tensor, (_, middle, _) in shapes.items():
        if not context.set_input_shape(tensor, middle):
            raise EngineError(f"engine {name!r}: expected to take {tensor} of {middle}, it refuses: {logger.text()}")
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _make_logger(trt: Any) -> Any:
    """TensorRT says why something failed through its logger alone."""

    class Collector(trt.ILogger):  # type: ignore[misc]  # the base class is known at run time only
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.messages.append(message)

        def text(self) -> str:
            return "; ".join(self.messages[-5:]) or "it gave no reason"

    return Collector()


def _slug(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
