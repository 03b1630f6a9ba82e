"""Copies of a repository with more instances, and what points of different counts say; on the real Triton, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench import slide_cli
from benchmarks.bench.report_sections import section_of
from benchmarks.bench.results import read_results
from benchmarks.bench.slide_instances import model_mpp, repository_with, usual_counts
from benchmarks.bench.slide_scaling import instance_ratios, scaling_line, scaling_of
from serving.check import check_repository
from serving.errors import RepositoryError
from serving.modelconfig import FILE_NAME, ModelConfig, read_config

from .result_contents import content

REPOSITORY = Path(__file__).parents[3] / "model_repository"
ENTRY = "default_segment"


def _point(count: int, per_s: float, cpu_ms: float = 2.0) -> dict[str, Any]:
    return {
        "name": f"instances {count}",
        "instances": count,
        "sent_tiles_per_s": per_s,
        "cpu_ms_per_tile": {"client": 1.0, "server": cpu_ms},
        "load_1min": 0.5,
    }


def _points(*points: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {point["name"]: point for point in points}


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, (1, 2, 4)), (2, (1, 2, 4)), (3, (1, 2, 3)), (4, (1, 2, 4)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))]
)
def test_counts_end_at_the_cores_and_give_a_line(cores: int, counts: tuple[int, ...]) -> None:
    assert usual_counts(cores) == counts


def test_only_the_network_of_slides_gets_more_instances(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in REPOSITORY.glob(f"default_*/{FILE_NAME}")}
    with repository_with(REPOSITORY, ENTRY, 3) as copy:
        found = check_repository(copy, [ENTRY])
        counts = {name: config.instance_count for name, config in found.items() if isinstance(config, ModelConfig)}
        (network,) = (name for name in found if name.endswith("_segment_net"))
        weights = Path(network) / "1" / "model.onnx"
        assert (copy / weights).read_bytes() == (REPOSITORY / weights).read_bytes()
    assert counts.pop(network) == 3
    assert set(counts.values()) == {1}
    assert not copy.exists()
    assert before == {path: path.read_bytes() for path in before}  # a link's content is the original's
    assert read_config(REPOSITORY / network) != found[network]
    assert model_mpp(REPOSITORY, ENTRY) == 1.0


@given(st.floats(0.5, 5), st.floats(0.01, 5))
def test_the_share_that_instances_do_not_shorten_is_found_again(fixed: float, each: float) -> None:
    points = _points(*(_point(count, 1e3 / (fixed + each / count)) for count in (1, 2, 4, 8)))
    found = instance_ratios(points)
    assert found["instances_fixed_share"] == pytest.approx(fixed / (fixed + each), abs=1e-3)
    assert found["instances_residual"] == 0
    assert found["instances_2_over_1"] == pytest.approx((fixed + each) / (fixed + each / 2), abs=1e-3)


def test_what_was_skipped_counts_nothing() -> None:
    two = _points(_point(1, 100.0, 3.0), _point(2, 150.0, 5.0), {"name": "instances 4", "instances": 4, "skipped": "no room"})
    assert scaling_of(two) is None
    assert instance_ratios(two) == {
        "instances_2_over_1": 1.5,
        "instances_cpu_2_over_1": 1.5,
        "instances_fixed_share": None,
        "instances_residual": None,
    }
    assert scaling_line(two).endswith("no line, fewer than three counts")
    assert set(instance_ratios({}).values()) == {None}


def test_more_instances_that_cost_time_are_said_to() -> None:
    slower = _points(*(_point(count, 100.0 - count) for count in (1, 2, 4)))
    assert scaling_line(slower).endswith("more of them shorten nothing")
    assert "50% of one instance's time" in scaling_line(_points(*(_point(count, 1e3 / (1 + 1 / count)) for count in (1, 2, 4))))


def test_the_report_shows_them() -> None:
    points = [_point(count, 1e3 / (1 + 2 / count)) for count in (1, 2, 4)]
    plots = {plot.name: plot.svg for plot in section_of(content("bench-slide", points, {})).plots}
    assert "1,000 tiles in 1 s + 2 s / instances" in plots["slide-instances"]
    assert section_of(content("bench-slide", points[:1], {})).plots == ()


def test_a_point_that_was_skipped_is_a_line() -> None:
    assert slide_cli.as_line({"name": "instances 4", "instances": 4, "skipped": "no room"}) == "instances 4: skipped: no room"


def test_no_instances_are_wrong_usage() -> None:
    with pytest.raises(ValueError, match="--instances: expected numbers of at least 1"):
        slide_cli.Flags(instances=(0, 1))


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    with pytest.raises(RepositoryError, match="default_segment"), repository_with(tmp_path / "repository", ENTRY, 2):
        pass


@pytest.mark.triton
@pytest.mark.slow
def test_two_servers_and_what_they_took(tmp_path: Path) -> None:
    flags = slide_cli.Flags(
        output=tmp_path / "r.json",
        repository=REPOSITORY,
        rounds=1,
        grow_px=(1024,),
        overlaps=(),
        counts=(),
        instances=(1, 2),
        folder=tmp_path / "slides",
    )
    slide_cli.run(flags)
    result = read_results(tmp_path / "r.json")
    one, two = (next(point for point in result["points"] if point["name"] == f"instances {count}") for count in (1, 2))
    assert one["tissue_tiles"] == two["tissue_tiles"] > 20
    for point in (one, two):
        assert point["server_cpu_s"] > 0
        assert point["cpu_ms_per_tile"]["server"] == pytest.approx(1e3 * point["server_cpu_s"] / point["tissue_tiles"], abs=0.01)
        assert [step["model"] for step in point["steps"] if step["kind"] == "step"] == ["default_r3_segment_net"]
    assert result["ratios"]["instances_2_over_1"] == round(two["sent_tiles_per_s"] / one["sent_tiles_per_s"], 4)
    assert "--grow-px 1024" in result["command"]
    assert not list((tmp_path / "slides").iterdir())
