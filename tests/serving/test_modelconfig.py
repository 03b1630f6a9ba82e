"""config.pbtxt round trips, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2 as pb

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


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    delay_us = draw(st.none() | st.integers(0, 10**9))
    return ModelConfig(
        name=draw(names),
        backend=draw(st.sampled_from(["onnxruntime", "python", "tensorrt"])),
        inputs=draw(several),
        outputs=draw(several),
        max_batch_size=draw(st.integers(1, 4096)),
        parameters=draw(parameters),
        queue_delay_us=delay_us,
        max_queue_size=None if delay_us is None else draw(st.none() | st.integers(1, 10**6)),
        instance_count=draw(st.integers(1, 16)),
        cpu_only=draw(st.booleans()),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: 'x' what: 1", "expected the protobuf text"),
        (to_text(NET) + "version_policy { latest { num_versions: 2 } }", "only fields that histoserve writes"),
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
