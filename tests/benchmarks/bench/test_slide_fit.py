"""Lines through known points, and pages of the cache of a file of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.errors import BenchError
from benchmarks.bench.slide_cache import cached_share, drop_pages, load_pages
from benchmarks.bench.slide_fit import fit_line
from benchmarks.bench.slide_plan import growth_of, ratios_of


@given(st.floats(0.01, 5), st.floats(1e-4, 1e-1), st.lists(st.integers(1, 100_000), min_size=3, max_size=8, unique=True))
def test_points_on_a_line_are_found_again(fixed: float, each: float, counts: list[int]) -> None:
    line = fit_line(counts, [fixed + each * count for count in counts])
    assert line.residual < 1e-6
    assert [line.at(count) for count in counts] == pytest.approx([fixed + each * count for count in counts])


def test_the_residual_is_the_farthest_points_share() -> None:
    line = fit_line([100, 200, 300, 400], [1.0, 2.0, 3.0, 4.4])
    assert line.residual == pytest.approx(
        max(abs(line.at(n) / cost - 1) for n, cost in zip([100, 200, 300, 400], [1.0, 2.0, 3.0, 4.4], strict=True))
    )
    assert 0.02 < line.residual < 0.1


def test_a_small_slide_weighs_as_much_as_a_large_one() -> None:
    # A hundredth off at the largest point moves a plain fit's fixed cost by far more than one slide costs.
    line = fit_line([10, 20, 40, 100_000], [1.1, 1.2, 1.4, 1001.0 * 1.01])
    assert line.fixed == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("counts", "costs"), [([1, 2], [1.0, 2.0]), ([5, 5, 5], [1.0, 2.0, 3.0]), ([1, 2, 3], [1.0, 0.0, 2.0])])
def test_what_gives_no_line_is_refused(counts: list[int], costs: list[float]) -> None:
    with pytest.raises(BenchError, match="line: expected"):
        fit_line(counts, costs)


def test_growth_is_of_the_generated_slides_alone() -> None:
    points: dict[str, dict[str, Any]] = {
        **{f"grow {n}": {"tissue_tiles": n, "seconds": 0.5 + n / 100, "cpu_s": 2 * (0.5 + n / 100)} for n in (100, 200, 400)},
        "overlap 0": {"tissue_tiles": 100, "seconds": 77.0, "cpu_s": 77.0},
        "a.svs cold 0": {"cache": "cold", "seconds": 3.0},
        "a.svs warm 0": {"cache": "warm", "seconds": 2.0},
        "a.svs against the engine": {"segment_of_tiles": {"median": 0.9}, "segment_of_local": {"median": 0.8}},
    }
    line = growth_of(points, "seconds")
    assert line is not None
    assert (line.fixed, line.each) == pytest.approx((0.5, 0.01))
    found = ratios_of(points)
    assert found["growth_cpu_fixed"] == 1.0
    assert found["growth_seconds_per_1000_tiles"] == 10.0
    assert (found["served_over_memory"], found["served_over_engine"], found["cold_over_warm"]) == (0.9, 0.8, 1.5)
    assert ratios_of({})["growth_seconds_residual"] is None


def test_pages_are_counted_dropped_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * (1 << 20))
    load_pages(path)
    assert cached_share(path) == 1.0
    kept = drop_pages(path)
    if kept == 1.0:
        pytest.skip("this file system keeps its pages in memory")
    assert kept < 0.5
    load_pages(path)
    assert cached_share(path) == 1.0
    assert path.read_bytes() == b"x" * (1 << 20)


def test_an_empty_file_has_no_pages(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert cached_share(tmp_path / "empty") == 0.0
