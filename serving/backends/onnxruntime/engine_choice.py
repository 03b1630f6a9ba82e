"""Which engine runs an ONNX model and with how many threads, read from the model's configuration. Imports neither engine."""

from dataclasses import dataclass

# Both can only say onnxruntime: the variable of the server's environment for every model, the parameter of config.pbtxt for one.
ENGINE_VARIABLE = "HISTOSERVE_ENGINE"
ENGINE_PARAMETER = "histoserve_engine"
ONNX_RUNTIME, OPENVINO = "onnxruntime", "openvino"
GRAPH_LEVELS = (-1, 0, 1, 2)  # Triton's: basic, all, extended, none


class ChoiceError(Exception):
    """The configuration asks for what this backend does not have."""


@dataclass(frozen=True)
class Choice:
    """What `choose` found.

    Attributes:
        engine: ONNX_RUNTIME or OPENVINO.
        reason: for the log.
        threads: of one instance; 0 = every core.
        inter_op_threads: ONNX Runtime's alone.
        graph_level: of GRAPH_LEVELS; ONNX Runtime's alone.
    """

    engine: str
    reason: str
    threads: int
    inter_op_threads: int
    graph_level: int


def choose(config, environment, has_openvino):
    """The engine of one model.

    Args:
        config: of Triton's native ONNX Runtime backend, as Triton hands it over (parsed JSON).
        environment: of the server.
        has_openvino: whether the package is installed beside the server.

    Raises:
        ChoiceError: an accelerator, engine, thread count or graph level that cannot be.
    """
    level = graph_level(config)
    named = parameter(config, ENGINE_PARAMETER, "")
    engine, reason = engine_and_reason(wanted_accelerator(config), named, environment.get(ENGINE_VARIABLE, ""), level, has_openvino)
    if engine == OPENVINO and not has_openvino:
        raise ChoiceError(
            f"expected the package openvino ({reason}), it is not installed beside the server: run make setup, or ask for none"
        )
    if engine == OPENVINO and level:
        raise ChoiceError(f"expected optimization.graph.level with ONNX Runtime alone, got {level} with OpenVINO ({reason})")
    return Choice(
        engine, reason, parse_threads(config, "intra_op_thread_count", 0), parse_threads(config, "inter_op_thread_count", 1), level
    )


def engine_and_reason(accelerator, named, forced, level, has_openvino):
    """The server's environment wins, then the configuration, then OpenVINO where it is installed."""
    if forced not in ("", ONNX_RUNTIME):
        raise ChoiceError(f"expected ${ENGINE_VARIABLE} to be {ONNX_RUNTIME} or nothing, got {forced!r}")
    if named not in ("", ONNX_RUNTIME):
        raise ChoiceError(f"expected the parameter {ENGINE_PARAMETER} to be {ONNX_RUNTIME} or not there, got {named!r}")
    if named and accelerator:
        raise ChoiceError(f"expected the accelerator {accelerator} or the parameter {ENGINE_PARAMETER} = {named}, got both")
    if forced:
        return ONNX_RUNTIME, f"${ENGINE_VARIABLE} says so"
    if accelerator:
        return OPENVINO, "config.pbtxt names it as accelerator"
    if named:
        return ONNX_RUNTIME, f"config.pbtxt says so ({ENGINE_PARAMETER})"
    if level:
        return ONNX_RUNTIME, f"config.pbtxt sets optimization.graph.level {level}, which only it has"
    if has_openvino:
        return OPENVINO, "it is installed beside the server"
    return ONNX_RUNTIME, "openvino is not installed beside the server"


def wanted_accelerator(config):
    """ "openvino" or None; the only one there is on a CPU."""
    named = config.get("optimization", {}).get("execution_accelerators", {})
    for_gpu = [entry["name"] for entry in named.get("gpu_execution_accelerator", [])]
    if for_gpu:
        raise ChoiceError(
            f"expected no accelerator of the GPU, got {', '.join(for_gpu)}: this Triton runs on the CPU alone; "
            "use the container, or export with --target cpu"
        )
    for_cpu = [entry["name"] for entry in named.get("cpu_execution_accelerator", [])]
    if for_cpu not in ([], [OPENVINO]):
        raise ChoiceError(f"expected the accelerator openvino or none, got {', '.join(for_cpu)}")
    return OPENVINO if for_cpu else None


def graph_level(config):
    raw = config.get("optimization", {}).get("graph", {}).get("level", 0)
    if int(raw) not in GRAPH_LEVELS:
        raise ChoiceError(f"expected optimization.graph.level of -1 (basic), 0 (all), 1 (extended) or 2 (none), got {raw}")
    return int(raw)


def parse_threads(config, name, default):
    raw = parameter(config, name, str(default))
    if not raw.isdecimal():
        raise ChoiceError(f"expected {name} of 0 (every core) or more, got {raw!r}")
    return int(raw)


def parameter(config, name, default):
    return config.get("parameters", {}).get(name, {}).get("string_value", default)
