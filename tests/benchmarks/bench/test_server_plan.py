"""What follows from points, with a model whose queue is known; and which points are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench.load import draw_arrivals_s, run_closed, run_open
from benchmarks.bench.percentiles import summarize_ms
from benchmarks.bench.queueing import Queue, predict_s
from benchmarks.bench.results import Results
from benchmarks.bench.server_plan import Part, Plan, Yardstick, follow, run_plan

from .result_contents import load_point
from .virtual_server import VirtualClock, VirtualServer

SERVICE_S = 0.02


class VirtualRuns:
    """`Runs` on a server in virtual time that serves one request in 20 ms: what it should find is known."""

    class served:  # an attribute of `Runs`
        priority_levels, image_entry = 0, None

        class entry:
            name, max_batch = "virtual", 8

    def __init__(self) -> None:
        self.asked: list[str] = []

    def closed(self, concurrency: int, shape: Any, entry: Any = None) -> dict[str, Any]:
        self.asked.append(f"closed {concurrency} × {shape.batch} {shape.memory}")
        clock = VirtualClock()
        measured = run_closed(VirtualServer(clock, SERVICE_S), concurrency, 1.0, 60.0, clock)
        return {**self._told(measured), "concurrency": concurrency}

    def open(self, rate: float, shape: Any, *, least_requests: int = 0, goal_s: float | None = None) -> dict[str, Any]:
        self.asked.append(f"open {rate:g}")
        clock, seconds = VirtualClock(), max(600.0 if goal_s is None else 120.0, least_requests / rate)
        measured = run_open(VirtualServer(clock, SERVICE_S), draw_arrivals_s(rate, seconds, 5), 0.0, seconds, clock)
        return {**self._told(measured), "rate": rate, "share_within_goal": None if goal_s is None else measured.share_within(goal_s)}

    def _told(self, measured: Any) -> dict[str, Any]:
        return {"requests_per_s": measured.finished / measured.seconds, "errors": {}, "latency_ms": summarize_ms(measured.latencies_s)}


def measured(
    path: Path, slo_ms: float | None = None, parts: tuple[Part, ...] = ("closed", "batch", "memory", "open", "slo")
) -> tuple[Results, VirtualRuns]:
    runs = VirtualRuns()
    results = Results.begin(path, "bench-server", "", {})
    plan = Plan(parts, concurrency=(1, 2, 4), batches=(1, 4, 64), loads=(0.5,), slo_ms=slo_ms, slo_percentile=99)
    run_plan(plan, runs, results, lambda point: None)  # type: ignore[arg-type]  # the same methods, in virtual time
    return results, runs


def test_a_queue_is_found_to_be_the_queue_it_is(tmp_path: Path) -> None:
    """One server of 20 ms: its p99 at 70 % load is what M/D/1 says."""
    results, _ = measured(tmp_path / "r.json")
    ratios = results.content["ratios"]
    assert (ratios["mdc_servers"], ratios["mdc_service_ms"]) == (1, pytest.approx(20.0, rel=0.001))
    assert ratios["p99_over_mdc"] == pytest.approx(1.0, abs=0.06)
    assert ratios["knee_concurrency"] == 1


def test_the_highest_rate_that_holds_the_goal_does_hold_it(tmp_path: Path) -> None:
    results, _ = measured(tmp_path / "r.json", slo_ms=100.0, parts=("slo",))
    rate = results.content["ratios"]["slo_requests_per_s"]
    tried = {point["rate"]: point["share_within_goal"] for name, point in results.points.items() if name.startswith("slo ")}
    assert tried[rate] >= 0.99
    assert predict_s(Queue(1, SERVICE_S), rate * SERVICE_S, 99) == pytest.approx(
        0.1, rel=0.12
    )  # a step of the bisection is 5 % of the rate
    assert min(other for other, share in tried.items() if share < 0.99) <= rate * 1.06
    assert measured(tmp_path / "r.json", slo_ms=100.0, parts=("slo",))[1].asked == []  # the rates are the same: nothing is measured again


def test_a_goal_below_the_service_time_is_held_by_no_rate(tmp_path: Path) -> None:
    assert measured(tmp_path / "r.json", slo_ms=19.0, parts=("slo",))[0].content["ratios"]["slo_requests_per_s"] is None


def test_parts_that_are_not_asked_for_are_not_measured(tmp_path: Path) -> None:
    _, runs = measured(tmp_path / "r.json", parts=("memory",))
    assert runs.asked == ["closed 1 × 1 grpc", "closed 4 × 1 grpc", "closed 2 × 8 grpc", "closed 2 × 8 shared"]


def test_a_batch_beyond_the_models_is_left_out(tmp_path: Path) -> None:
    results, _ = measured(tmp_path / "r.json", parts=("batch",))
    assert [name for name in results.points if name.startswith("batch ")] == ["batch 1", "batch 4"]


def test_without_p99_there_is_no_ratio() -> None:
    alone, most = (load_point("mdc closed", "closed", 50.0, 20.0, concurrency=count) for count in (1, 2))
    point = load_point("mdc open", "open", 35.0, 30.0, load=0.7)
    assert follow([alone], Yardstick(alone, most, point), None)["p99_over_mdc"] is None
    point["latency_ms"]["p99"] = 1000 * predict_s(Queue(1, 0.02), 0.7, 99) * 1.5
    assert follow([alone], Yardstick(alone, most, point), None)["p99_over_mdc"] == pytest.approx(1.5, abs=0.001)
    assert follow([alone], None, None)["p99_over_mdc"] is None
