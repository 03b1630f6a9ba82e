"""`--target`: what a network's and a combine graph's configuration become, that nothing else changes, and that the real Triton takes the CPU's."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from export.errors import EngineError
from export.layout import kind_layout
from export.signature import network_signature
from export.targets import INTERACTIVE, TARGETS, CpuTarget, GpuTarget, Queue, Role, Target, apply_target
from export.tensorrt_engine import BatchProfile
from serving.accelerator import Accelerator
from serving.canary import ask
from serving.contract import LABELS, PROBABILITIES, TILE, Kind
from serving.embedded import EmbeddedTriton
from serving.errors import ConfigError, StartError
from serving.modelconfig import ModelConfig, contract_of, parse_text, read_config, to_text, write_config
from serving.modeloptions import Priorities, QueuePolicy, WarmUp
from serving.tasks import get_task
from tests.serving import tiny_release as tiny

BCSS = get_task("bcss")
SIGNATURE = network_signature("segment", BCSS, 4)
NET = ModelConfig("net", "onnxruntime", SIGNATURE.inputs, SIGNATURE.outputs, 64, {"note": "kept"}, queue_delay_us=2000)
DEFAULT_RELEASE = Path(__file__).parents[2] / "model_repository"


def test_the_cpu_counts_threads_and_limits_its_queue() -> None:
    config = apply_target(NET, CpuTarget(instances=2, threads=4), "network")
    assert (config.cpu_only, config.instance_count) == (True, 2)
    assert config.parameters == {"note": "kept", "intra_op_thread_count": "4", "inter_op_thread_count": "1"}
    assert config.options.warm_ups == (WarmUp(1),)
    assert config.options.accelerator is None
    assert (config.max_queue_size, config.options.queue_timeout_us) == (64, 120_000_000)
    assert config.options.priorities == Priorities(2, 2, {INTERACTIVE: QueuePolicy(16, 30_000_000, callers_shorten=True)})


def test_openvino_is_asked_for() -> None:
    assert apply_target(NET, CpuTarget(openvino=True), "network").options.accelerator == Accelerator("openvino")
    assert apply_target(NET, CpuTarget(openvino=True), "combine").options.accelerator is None


def test_the_gpu_builds_through_onnx_runtime_with_explicit_profiles_and_a_cache() -> None:
    config = apply_target(NET, GpuTarget(BatchProfile(1, 16, 64), engine_cache="engines"), "network")
    assert (config.backend, config.file_name, config.instance_count) == ("onnxruntime", "model.onnx", 2)
    assert config.options.gpu_only
    assert config.options.warm_ups == (WarmUp(16, count=3),)
    assert config.options.cuda_graph_batches == ()
    accelerator = config.options.accelerator
    assert accelerator is not None
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters == {
        "max_workspace_size_bytes": "4294967296",
        "trt_builder_optimization_level": "5",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "engines",
        "trt_engine_cache_prefix": "net",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": "engines",
        "trt_force_sequential_engine_build": "1",
        "trt_profile_min_shapes": "TILE:1x224x224x3",
        "trt_profile_opt_shapes": "TILE:16x224x224x3",
        "trt_profile_max_shapes": "TILE:64x224x224x3",
    }


def test_an_engine_that_was_built_is_served_with_cuda_graphs_for_the_clients_batches() -> None:
    config = apply_target(NET, GpuTarget(BatchProfile(2, 64, 64), has_engine=True), "network")
    assert (config.backend, config.file_name) == ("tensorrt", "model.plan")
    assert config.options.accelerator is None
    assert config.options.cuda_graph_batches == (2, 4, 8, 16, 32, 64)  # 1 is below the profile
    assert config.options.warm_ups == (WarmUp(64, count=3),)


def test_threads_of_the_cpu_are_no_parameters_of_an_engine() -> None:
    threads = {**NET.parameters, "intra_op_thread_count": "4", "inter_op_thread_count": "1"}
    config = apply_target(dataclasses.replace(NET, parameters=threads), GpuTarget(has_engine=True), "network")
    assert config.parameters == {"note": "kept"}


def test_an_engine_for_smaller_batches_than_the_ensembles_promise() -> None:
    with pytest.raises(EngineError, match="model 'net': expected a batch profile up to 64, got BatchProfile"):
        apply_target(NET, GpuTarget(BatchProfile(1, 16, 32)), "network")


def test_the_combine_graph_stays_with_onnx_runtime() -> None:
    on_gpu = apply_target(NET, GpuTarget(has_engine=True), "combine")
    assert (on_gpu.backend, on_gpu.options.gpu_only, on_gpu.options.accelerator, on_gpu.options.warm_ups) == ("onnxruntime", True, None, ())
    on_cpu = apply_target(NET, CpuTarget(instances=4, threads=8), "combine")
    assert (on_cpu.cpu_only, on_cpu.instance_count, on_cpu.parameters["intra_op_thread_count"]) == (True, 1, "1")
    assert on_cpu.max_queue_size is None  # what the network let through must not be turned away behind it


def test_without_a_target_nothing_changes() -> None:
    assert apply_target(NET, None, "network") == apply_target(NET, None, "combine") == NET


@pytest.mark.parametrize(
    "target", [*TARGETS.values(), CpuTarget(openvino=True), GpuTarget(has_engine=True)], ids=["cpu", "gpu", "openvino", "engine"]
)
@pytest.mark.parametrize("kind", ["segment", "cam"])
def test_a_target_changes_neither_tensors_nor_ensembles(target: Target, kind: Kind) -> None:
    plain, placed = (kind_layout("bcss_r1", kind, BCSS, "pscl", 4, chosen) for chosen in (None, target))
    assert (placed.slide, placed.frozen) == (plain.slide, plain.frozen)
    assert plain.labels is not None
    assert placed.labels is not None
    for before, after in ((plain.net, placed.net), (plain.labels, placed.labels)):
        assert (after.name, after.inputs, after.outputs, after.max_batch_size) == (
            before.name,
            before.inputs,
            before.outputs,
            before.max_batch_size,
        )
        assert after != before
        assert parse_text(to_text(after)) == after


@pytest.mark.parametrize("kind", ["segment", "cam"])
def test_the_default_target_is_what_the_shipped_release_has(kind: Kind) -> None:
    contract = contract_of(read_config(DEFAULT_RELEASE / f"default_r3_{kind}"))
    layout = kind_layout("default_r3", kind, contract.task, contract.method, contract.cell_px)
    assert layout.net == read_config(DEFAULT_RELEASE / layout.net.name)
    assert layout.labels is not None
    assert layout.labels == read_config(DEFAULT_RELEASE / layout.labels.name)


def test_a_queue_needs_a_batcher() -> None:
    with pytest.raises(ConfigError, match="queue_delay_us"):
        apply_target(dataclasses.replace(NET, queue_delay_us=None), CpuTarget(), "network")


def place_on_cpu(repository: Path, target: CpuTarget) -> None:
    roles: dict[str, Role] = {tiny.NET: "network", tiny.COMBINE: "combine"}
    for name, role in roles.items():
        config = read_config(repository / name)
        assert isinstance(config, ModelConfig)
        write_config(repository / name, apply_target(config, target, role))


@pytest.mark.triton
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (GpuTarget(), "has kind KIND_GPU but no GPUs are available"),
        (GpuTarget(has_engine=True), "unable to find backend library|no GPUs are available"),
    ],
    ids=["gpu", "engine"],
)
def test_the_real_triton_can_read_the_gpu_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: GpuTarget, reason: str) -> None:
    """On a machine without GPU 2.51 gets past the text: it refuses the GPU, not a field."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # a failed start keeps its log there
    repository = tiny.write_tiny_release(tmp_path / "model_repository")
    config = read_config(repository / tiny.NET)
    assert isinstance(config, ModelConfig)
    placed = apply_target(config, target, "network")
    write_config(repository / tiny.NET, placed)
    (repository / tiny.NET / "1" / placed.file_name).touch()
    with pytest.raises(StartError, match=rf"model '{tiny.NET}': .*({reason})"), EmbeddedTriton(repository, [tiny.ENTRY]):
        pass


@pytest.mark.triton
def test_the_real_triton_serves_the_cpu_profile(tmp_path: Path) -> None:
    """2.51 reads every new field: instances, threads, queue policies, priorities, warm-up, accelerator; and the values stay."""
    repository = tiny.write_tiny_release(tmp_path / "model_repository")
    queue = Queue(size=8, timeout_s=60, interactive_size=4, interactive_timeout_s=30)
    place_on_cpu(repository, CpuTarget(instances=2, threads=1, openvino=True, queue=queue, warm_up_batch=4))
    tiles = tiny.random_tiles(3, seed=1)
    with EmbeddedTriton(repository, [tiny.ENTRY]) as server, grpcclient.InferenceServerClient(server.address) as client:
        for name, values in tiny.expected(tiles).items():
            np.testing.assert_array_equal(ask(client, tiny.ENTRY, tiles, (LABELS, PROBABILITIES))[name], values)
        read = client.get_model_config(tiny.NET, as_json=True)["config"]
        tile = grpcclient.InferInput(TILE, list(tiles.shape), "UINT8")
        tile.set_data_from_numpy(tiles)
        urgent = client.infer(tiny.NET, [tile], priority=INTERACTIVE, timeout=20_000_000)
        np.testing.assert_array_equal(urgent.as_numpy(LABELS), tiny.net_labels(tiles))
        statistics = client.get_inference_statistics(tiny.NET, headers=server.admin_headers)
    assert (read["instance_group"][0]["count"], read["instance_group"][0]["kind"]) == (2, "KIND_CPU")
    batching = read["dynamic_batching"]
    assert (batching["priority_levels"], batching["default_priority_level"]) == ("2", "2")
    assert "max_queue_size" not in batching["default_queue_policy"]  # 2.51 would end by it: serving/queue_limits.py
    assert batching["default_queue_policy"]["default_timeout_microseconds"] == "60000000"
    assert batching["priority_queue_policy"]["1"]["default_timeout_microseconds"] == "30000000"
    assert read["optimization"]["execution_accelerators"]["cpu_execution_accelerator"] == [{"name": "openvino"}]
    assert [(entry["name"], entry["batch_size"]) for entry in read["model_warmup"]] == [("zero_4", 4)]
    assert [entry.compute_infer.count for entry in statistics.model_stats[0].batch_stats if entry.batch_size == 4] == [
        2
    ]  # one per instance
