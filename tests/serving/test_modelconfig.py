"""config.pbtxt round trips, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

from serving.accelerator import Accelerator
from serving.contract import ContractError
from serving.errors import ConfigError
from serving.modelconfig import (
    Config,
    EnsembleConfig,
    ModelConfig,
    Step,
    Tensor,
    contract_of,
    parse_text,
    read_config,
    replaced,
    to_text,
    write_config,
)
from serving.modeloptions import Options, Priorities, QueuePolicy, WarmUp

from .tiny_release import ENTRY, RELEASE, configs, contract

TILE = Tensor("TILE", "TYPE_UINT8", (224, 224, 3))
LABELS = Tensor("LABELS", "TYPE_UINT8", (224, 224))
NET = ModelConfig("net", "onnxruntime", (TILE,), (LABELS,), 64)

names = st.text(st.characters(categories=["Ll", "Lu", "Nd"], include_characters="_-"), min_size=1, max_size=12)
tensors = st.builds(
    Tensor,
    names,
    st.sampled_from(["TYPE_UINT8", "TYPE_FP32", "TYPE_FP16", "TYPE_INT64", "TYPE_STRING", "TYPE_BOOL"]),
    st.lists(st.integers(1, 2**31), min_size=1, max_size=4).map(tuple),
)
several = st.lists(tensors, min_size=1, max_size=4, unique_by=lambda tensor: tensor.name).map(tuple)
parameters = st.dictionaries(names, st.text(max_size=40), max_size=4)


timeouts_us = st.integers(1, 10**9)
policies = st.builds(QueuePolicy, st.none() | st.integers(1, 10**6), timeouts_us, st.booleans()) | st.builds(
    QueuePolicy, st.none() | st.integers(1, 10**6)
)
trt_parameters = st.sampled_from(
    [
        {},
        {"precision_mode": "FP16", "max_workspace_size_bytes": "1073741824"},
        {"trt_engine_cache_enable": "1", "trt_engine_cache_path": "engines"},
        {f"trt_profile_{size}_shapes": "TILE:1x224x224x3" for size in ("min", "opt", "max")},
    ]
)


@st.composite
def options(draw: st.DrawFn, backend: str, place: str, max_batch_size: int, has_batcher: bool) -> Options:
    sizes = st.lists(st.integers(1, max_batch_size), max_size=3, unique=True).map(sorted).map(tuple)
    accelerators: list[st.SearchStrategy[Accelerator | None]] = [st.none()]
    if backend == "onnxruntime" and place != "gpu":
        accelerators.append(st.just(Accelerator("openvino")))
    if backend == "onnxruntime" and place != "cpu":
        accelerators.append(st.builds(Accelerator, st.just("tensorrt"), trt_parameters))
    levels = draw(st.integers(2, 5))
    priorities = st.builds(
        Priorities, st.just(levels), st.integers(1, levels), st.dictionaries(st.integers(1, levels), policies, max_size=2)
    )
    timeout_us = draw(st.none() | timeouts_us) if has_batcher else None
    return Options(
        gpu_only=place == "gpu",
        preferred_batch_sizes=draw(sizes) if has_batcher else (),
        queue_timeout_us=timeout_us,
        callers_shorten=timeout_us is not None and draw(st.booleans()),
        priorities=draw(st.none() | priorities) if has_batcher else None,
        warm_ups=tuple(WarmUp(size, draw(st.integers(1, 9)), draw(st.sampled_from(["zero", "random"]))) for size in draw(sizes)),
        accelerator=draw(st.one_of(accelerators)),
        cuda_graph_batches=draw(sizes) if backend == "tensorrt" else (),
    )


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    delay_us = draw(st.none() | st.integers(0, 10**9))
    backend = draw(st.sampled_from(["onnxruntime", "python", "tensorrt"]))
    place = draw(st.sampled_from(["auto", "gpu"] if backend == "tensorrt" else ["auto", "cpu", "gpu"]))
    max_batch_size = draw(st.integers(1, 4096))
    threads = st.fixed_dictionaries({}, optional={"intra_op_thread_count": st.just("4"), "inter_op_thread_count": st.just("0")})
    return ModelConfig(
        name=draw(names),
        backend=backend,
        inputs=draw(several),
        outputs=draw(several),
        max_batch_size=max_batch_size,
        parameters=draw(parameters) | (draw(threads) if backend == "onnxruntime" else {}),
        queue_delay_us=delay_us,
        max_queue_size=None if delay_us is None else draw(st.none() | st.integers(1, 10**6)),
        instance_count=draw(st.integers(1, 16)),
        cpu_only=place == "cpu",
        options=draw(options(backend, place, max_batch_size, delay_us is not None)),
    )


@st.composite
def ensembles(draw: st.DrawFn) -> EnsembleConfig:
    outputs = draw(several)
    last = Step(draw(names), draw(st.dictionaries(names, names, max_size=3)), {tensor.name: tensor.name for tensor in outputs})
    maps = st.dictionaries(names, names, max_size=3)
    before = draw(st.lists(st.builds(Step, names, maps, maps), max_size=3))
    return EnsembleConfig(draw(names), draw(several), outputs, (*before, last), draw(st.integers(1, 4096)), draw(parameters))


@settings(deadline=None)
@given(models() | ensembles())
def test_text_round_trip(config: Config) -> None:
    assert parse_text(to_text(config)) == config


@pytest.mark.parametrize("config", configs(), ids=lambda config: config.name)
def test_file_round_trip(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / config.name
    folder.mkdir()
    write_config(folder, config)
    assert read_config(folder) == config


def test_text_says_what_triton_reads() -> None:
    """Against Triton's own schema, not against our parser."""
    config = dataclasses.replace(NET, parameters={"note": 'a "quoted" µm'}, queue_delay_us=2000, max_queue_size=32, cpu_only=True)
    message = pb.ModelConfig()
    text_format.Parse(to_text(config), message)
    assert (message.backend, message.default_model_filename, message.max_batch_size) == ("onnxruntime", "model.onnx", 64)
    assert list(message.input[0].dims) == [224, 224, 3]
    assert message.input[0].data_type == pb.TYPE_UINT8
    assert message.dynamic_batching.max_queue_delay_microseconds == 2000
    assert message.dynamic_batching.default_queue_policy.max_queue_size == 32
    assert message.dynamic_batching.default_queue_policy.timeout_action == pb.ModelQueuePolicy.REJECT
    assert message.instance_group[0].kind == pb.ModelInstanceGroup.KIND_CPU
    assert message.parameters["note"].string_value == 'a "quoted" µm'


URGENT = QueuePolicy(max_size=16, timeout_us=2_000_000, callers_shorten=True)
FULL = Options(
    gpu_only=True,
    preferred_batch_sizes=(16, 64),
    queue_timeout_us=30_000_000,
    callers_shorten=True,
    priorities=Priorities(2, 2, {1: URGENT}),
    warm_ups=(WarmUp(1), WarmUp(64, count=3, data="random")),
    accelerator=Accelerator("tensorrt", {"precision_mode": "FP16", "trt_engine_cache_enable": "1", "trt_engine_cache_path": "engines"}),
)


def parsed(config: ModelConfig) -> pb.ModelConfig:
    """Against Triton's own schema, not against our parser."""
    message = pb.ModelConfig()
    text_format.Parse(to_text(config), message)
    return message


def test_queues_and_priorities_as_triton_reads_them() -> None:
    batching = parsed(dataclasses.replace(NET, queue_delay_us=0, max_queue_size=512, options=FULL)).dynamic_batching
    assert list(batching.preferred_batch_size) == [16, 64]
    assert (batching.priority_levels, batching.default_priority_level) == (2, 2)
    default, urgent = batching.default_queue_policy, batching.priority_queue_policy[1]
    assert list(batching.priority_queue_policy) == [1]
    assert (default.max_queue_size, default.default_timeout_microseconds, default.allow_timeout_override) == (512, 30_000_000, True)
    assert (urgent.max_queue_size, urgent.default_timeout_microseconds, urgent.allow_timeout_override) == (16, 2_000_000, True)
    assert default.timeout_action == urgent.timeout_action == pb.ModelQueuePolicy.REJECT


def test_warm_ups_and_accelerators_as_triton_reads_them() -> None:
    message = parsed(dataclasses.replace(NET, queue_delay_us=0, options=FULL))
    assert message.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    zero, random = message.model_warmup
    assert (zero.name, zero.batch_size, zero.count, zero.inputs["TILE"].zero_data) == ("zero_1", 1, 1, True)
    assert (random.name, random.batch_size, random.count, random.inputs["TILE"].random_data) == ("random_64", 64, 3, True)
    assert (random.inputs["TILE"].data_type, list(random.inputs["TILE"].dims)) == (pb.TYPE_UINT8, [224, 224, 3])
    (tensorrt,) = message.optimization.execution_accelerators.gpu_execution_accelerator
    assert tensorrt.name == "tensorrt"
    assert dict(tensorrt.parameters) == {"precision_mode": "FP16", "trt_engine_cache_enable": "1", "trt_engine_cache_path": "engines"}
    assert not message.optimization.execution_accelerators.cpu_execution_accelerator

    message = parsed(dataclasses.replace(NET, cpu_only=True, options=Options(accelerator=Accelerator("openvino"))))
    assert [entry.name for entry in message.optimization.execution_accelerators.cpu_execution_accelerator] == ["openvino"]
    assert not message.optimization.execution_accelerators.gpu_execution_accelerator


def test_an_engine_and_its_cuda_graphs_as_triton_reads_them() -> None:
    message = parsed(dataclasses.replace(NET, backend="tensorrt", options=Options(gpu_only=True, cuda_graph_batches=(1, 64))))
    assert (message.backend, message.default_model_filename) == ("tensorrt", "model.plan")
    assert message.optimization.cuda.graphs
    assert [(spec.batch_size, list(spec.input["TILE"].dim)) for spec in message.optimization.cuda.graph_spec] == [
        (1, [224, 224, 3]),
        (64, [224, 224, 3]),
    ]


def test_options_leave_no_trace_where_there_are_none() -> None:
    """What is in releases already must not change: text as of before there were options."""
    message = parsed(dataclasses.replace(NET, queue_delay_us=2000))
    assert not message.HasField("optimization")
    assert not message.HasField("response_cache")
    assert not message.model_warmup
    assert not message.dynamic_batching.HasField("default_queue_policy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": Options(warm_ups=(WarmUp(65),))}, r"batch sizes of 1 to max_batch_size = 64, got \[65\]"),
        ({"options": Options(warm_ups=(WarmUp(2), WarmUp(1)))}, r"ascending, different batch sizes, got \[2, 1\]"),
        ({"options": Options(preferred_batch_sizes=(8,))}, "expected a queue_delay_us"),
        ({"options": Options(queue_timeout_us=5)}, "expected a queue_delay_us"),
        ({"options": Options(priorities=Priorities(2, 1))}, "expected a queue_delay_us"),
        ({"options": Options(gpu_only=True), "cpu_only": True}, "nothing of the GPU"),
        ({"backend": "tensorrt", "cpu_only": True}, "nothing of the GPU"),
        ({"options": Options(accelerator=Accelerator("tensorrt")), "cpu_only": True}, "nothing of the GPU"),
        ({"options": Options(gpu_only=True, accelerator=Accelerator("openvino"))}, "no accelerator of the CPU, got openvino"),
        ({"backend": "python", "options": Options(accelerator=Accelerator("openvino"))}, "backend 'onnxruntime' alone"),
        ({"options": Options(cuda_graph_batches=(1,))}, "backend 'tensorrt' alone"),
        ({"parameters": {"intra_op_thread_count": "-1"}}, "0 .every core. or more.*got '-1'"),
        ({"backend": "python", "parameters": {"inter_op_thread_count": "1"}}, "backend 'onnxruntime' alone"),
    ],
)
def test_refuses_options_that_do_not_suit_the_model(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"model 'net': .*{message}"):
        dataclasses.replace(NET, **changes)


def test_refuses_options_that_do_not_suit_each_other() -> None:
    with pytest.raises(ConfigError, match="expected max_size of at least 1 or none, got 0"):
        QueuePolicy(max_size=0)
    with pytest.raises(ConfigError, match="a timeout_us that callers can shorten"):
        Options(callers_shorten=True)
    with pytest.raises(ConfigError, match=r"levels of 1 to 2, got \[1, 3\]"):
        Priorities(2, 1, {3: URGENT})
    with pytest.raises(ConfigError, match="expected batch_size and count of at least 1, got 1 and 0"):
        WarmUp(1, count=0)
    with pytest.raises(ConfigError, match=r"'openvino': expected parameters of \[\], got \['num_of_threads'\]"):
        Accelerator("openvino", {"num_of_threads": "4"})  # the provider would ignore it
    with pytest.raises(ConfigError, match=r"expected all of .*got \['trt_profile_min_shapes'\]"):
        Accelerator("tensorrt", {"trt_profile_min_shapes": "TILE:1x224x224x3"})
    with pytest.raises(ConfigError, match="expected trt_engine_cache_path beside trt_engine_cache_enable"):
        Accelerator("tensorrt", {"trt_engine_cache_enable": "1"})
    with pytest.raises(ConfigError, match="expected precision_mode of FP32, FP16, INT8, got 'BF16'"):
        Accelerator("tensorrt", {"precision_mode": "BF16"})


def test_no_delay_and_no_batching_are_different() -> None:
    assert "dynamic_batching" not in to_text(NET)
    assert "dynamic_batching" in to_text(dataclasses.replace(NET, queue_delay_us=0))


def test_text_is_stable() -> None:
    one = dataclasses.replace(NET, parameters={"a": "1", "b": "2"})
    other = dataclasses.replace(NET, parameters={"b": "2", "a": "1"})
    assert to_text(one) == to_text(other)


def test_contract_travels_through_the_file() -> None:
    entry = next(config for config in configs() if config.name == ENTRY)
    assert contract_of(parse_text(to_text(entry))) == contract()


def test_a_model_without_contract_says_so() -> None:
    with pytest.raises(ContractError, match="not exported by histoserve"):
        contract_of(NET)


def test_replaced_changes_the_name_alone() -> None:
    release = next(config for config in configs() if config.name == RELEASE)
    assert isinstance(release, EnsembleConfig)
    assert dataclasses.replace(replaced(release, ENTRY), name=RELEASE) == release


WARM = dataclasses.replace(NET, options=Options(warm_ups=(WarmUp(4),)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 'x' what: 1", "expected the protobuf text"),
        (to_text(NET) + "version_policy { latest { num_versions: 2 } }", "only fields that histoserve writes"),
        (to_text(NET) + "response_cache { enable: true }", "only fields that histoserve writes"),
        (to_text(NET) + "optimization { eager_batching: true }", "only fields that histoserve writes"),
        (to_text(NET) + "optimization { cuda { graphs: true } }", "only fields that histoserve writes"),
        (
            to_text(NET) + "optimization { execution_accelerators { cpu_execution_accelerator { name: 'tvm' } } }",
            "one of openvino, tensorrt",
        ),
        (
            to_text(NET) + "optimization { execution_accelerators { cpu_execution_accelerator { name: 'tensorrt' } } }",
            "only fields that histoserve writes",  # TensorRT belongs to the other list
        ),
        (
            to_text(NET)
            + "optimization { execution_accelerators { cpu_execution_accelerator [ { name: 'openvino' }, { name: 'openvino' } ] } }",
            "only fields that histoserve writes",
        ),
        (
            to_text(NET) + "dynamic_batching { default_queue_policy { timeout_action: DELAY max_queue_size: 8 } }",
            "only fields that histoserve writes",
        ),
        (to_text(WARM).replace("      dims: 3\n", "      dims: 4\n"), "only fields that histoserve writes"),  # not the input's own
        (to_text(WARM).replace("zero_4", "big"), "only fields that histoserve writes"),
        (to_text(NET).replace("dims: 3", "dims: -1"), "static dims"),
        (to_text(NET).replace("count: 1", "count: 1 gpus: 0"), "only fields that histoserve writes"),
        (to_text(NET).replace("onnxruntime", "pytorch"), "expected a backend"),
        (to_text(NET).replace("instance_group {\n  count: 1\n}", ""), "one instance_group"),
        (to_text(NET).replace("max_batch_size: 64", ""), "max_batch_size of at least 1"),
    ],
)
def test_refuses_what_it_does_not_write(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_text(text)


def test_refuses_an_output_from_an_earlier_step() -> None:
    """Triton answers requests for a part of such an ensemble's outputs with a deadlock error."""
    steps = (Step("net", {"TILE": "TILE"}, {"LABELS": "LABELS"}), Step("rule", {"LABELS": "LABELS"}, {"MASK": "MASK"}))
    mask = dataclasses.replace(LABELS, name="MASK")
    with pytest.raises(ConfigError, match=r"every output to come from the last step 'rule', but \['LABELS'\] does not"):
        EnsembleConfig("both", (TILE,), (LABELS, mask), steps, 64)


def test_refuses_a_queue_limit_without_batching() -> None:
    with pytest.raises(ConfigError, match="together with a queue_delay_us"):
        dataclasses.replace(NET, max_queue_size=8)


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"net: expected a model folder with config\.pbtxt, got none"):
        read_config(folder)
    (folder / "config.pbtxt").write_text(to_text(dataclasses.replace(NET, name="other")))
    with pytest.raises(ConfigError, match="expected the name of its folder, got 'other'"):
        read_config(folder)
    with pytest.raises(ConfigError, match="expected a folder of that name"):
        write_config(folder, dataclasses.replace(NET, name="other"))
