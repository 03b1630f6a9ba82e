"""`bench server` on the real embedded Triton with the model that ships: every part once, for a moment."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.bench.errors import BenchError
from benchmarks.bench.percentiles import least_samples
from benchmarks.bench.results import read_results
from benchmarks.bench.served import open_served
from benchmarks.bench.server_cli import Flags, run
from benchmarks.bench.server_runs import Runs, Window
from benchmarks.bench.triton_target import Shape, open_target
from serving.check import check_repository
from serving.embedded import EmbeddedTriton
from serving.modelconfig import ModelConfig, write_config
from serving.modeloptions import Priorities

pytestmark = [pytest.mark.triton, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[3] / "model_repository"
ENTRY = "default_segment"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    """The model that ships, with a network that knows two priorities."""
    repository = tmp_path_factory.mktemp("served") / "model_repository"
    for name, config in check_repository(REPOSITORY, [ENTRY]).items():
        shutil.copytree(REPOSITORY / name, repository / name)
        if isinstance(config, ModelConfig) and name.endswith("_net"):
            options = dataclasses.replace(config.options, priorities=Priorities(levels=2, default=2))
            write_config(repository / name, dataclasses.replace(config, options=options))
    with EmbeddedTriton(repository, [ENTRY]) as started:
        yield started


def test_the_command_starts_a_server_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bench-server.json"
    run(
        Flags(
            "default",
            repository=REPOSITORY,
            output=output,
            parts=("encoded", "memory"),
            concurrency=(1, 2),
            batches=(2,),
            seconds=0.5,
            warm_s=0.1,
        )
    )
    assert "not on PATH" in capsys.readouterr().out or shutil.which("perf_analyzer")
    points = {point["name"]: point for point in read_results(output)["points"]}
    assert {"server", "closed 1", "closed 2", "encoded", "memory grpc", "memory shared"} <= set(points)
    assert (points["encoded"]["model"], points["encoded"]["input"]) == ("default_segment_image", "encoded")
    assert points["memory shared"]["memory"] == "shared"
    for name in set(points) - {"server", "perf_analyzer"}:
        point = points[name]
        assert point["errors"] == {}
        assert point["answered"] == point["requests"] > 0
        assert point["tiles_per_s"] == pytest.approx(point["requests_per_s"] * point["batch"], abs=0.01)
        assert point["cpu_ms_per_tile"]["server"] > 0
        assert point["rss_mb"]["server"] > 50
        entry, net = (next(step for step in point["steps"] if step["model"].endswith(end)) for end in (point["model"], "_net"))
        assert net["execution_ms"] > 0
        assert net["queue_ms"] + net["execution_ms"] <= entry["request_ms"] * 1.01
    assert 1.0 <= next(step for step in points["memory shared"]["steps"] if step["model"].endswith("_net"))["mean_batch"] <= 64


def test_a_server_that_runs_is_measured_and_a_run_is_gone_on_with(server: EmbeddedTriton, tmp_path: Path) -> None:
    flags = Flags(
        ENTRY,
        server=server.address,
        output=tmp_path / "r.json",
        parts=("memory", "priority"),
        concurrency=(2,),
        batches=(2,),
        seconds=0.5,
        warm_s=0.1,
    )
    run(flags)
    first = read_results(flags.output)
    points = {point["name"]: point for point in first["points"]}
    assert "shared memory" in points["memory shared"]["skipped"]  # its protocol is behind a secret that is not ours
    assert points["closed 1"]["steps"] is None  # nobody told us how to ask
    assert points["closed 1"]["cpu_ms_per_tile"]["server"] > 0  # found by its port
    by_priority = points["priority"]["by_priority"]
    assert {name: part["priority"] for name, part in by_priority.items()} == {"urgent": 1, "others": 2}
    assert all(part["errors"] == {} and part["answered"] > 0 for part in by_priority.values())
    run(flags)
    assert read_results(flags.output)["points"] == first["points"]


def test_an_open_load_lasts_until_its_percentile_is_known(server: EmbeddedTriton) -> None:
    with open_served(ENTRY, server.address, REPOSITORY) as served:
        point = Runs(served, Window(0.2, 0.1), seed=0).open(40.0, Shape(), least_requests=least_samples(90), goal_s=60.0)
    assert point["seconds"] == pytest.approx(0.9)
    assert point["requests"] == point["answered"]
    assert point["share_within_goal"] == 1.0
    assert point["latency_ms"]["p99"] is None


def test_a_request_that_the_server_refuses_is_not_timed(server: EmbeddedTriton) -> None:
    with (
        open_served(ENTRY, server.address, REPOSITORY) as served,
        pytest.raises(BenchError, match="the first request"),
        open_target(server.address, served.entry, Shape(batch=65), {}),
    ):
        raise AssertionError("unreachable: 65 tiles are more than the model takes")
