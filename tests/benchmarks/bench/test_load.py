"""Loads in a time of our own: what a stall costs the callers, and which loop sees it."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.bench.load import Measured, RealClock, draw_arrivals_s, run_closed, run_open
from benchmarks.bench.percentiles import percentile

from .virtual_server import VirtualClock, VirtualServer

STALL = ((10.0, 20.0),)


def every_10_ms(seconds: float) -> list[float]:
    return [number / 100 for number in range(round(100 * seconds))]


def test_a_closed_loop_omits_what_a_stall_would_have_cost() -> None:
    """Ten seconds of standstill in a hundred: one request met it, since the others were never sent."""
    clock = VirtualClock()
    measured = run_closed(VirtualServer(clock, 1 / 128, STALL), 1, 0.0, 100.0, clock)
    assert sum(latency_s > 0.01 for latency_s in measured.latencies_s) == 1
    assert percentile(measured.latencies_s, 99.9) == 1 / 128
    assert max(measured.latencies_s) == 10 + 1 / 128
    assert measured.finished == 90 * 128 - 1  # the last comes at the end, which is outside


def test_an_open_loop_sees_it() -> None:
    """A request every 10 ms at 5 ms of service: those of the stall wait up to 10 s, those after it until the queue is gone at 30 s."""
    clock = VirtualClock()
    measured = run_open(VirtualServer(clock, 0.005, STALL), every_10_ms(100), 0.0, 100.0, clock)
    slow = [latency_s for latency_s in measured.latencies_s if latency_s > 0.0051]
    assert len(slow) == pytest.approx(2000, abs=5)
    assert max(measured.latencies_s) == pytest.approx(10.005)
    assert percentile(measured.latencies_s, 90) == pytest.approx(5.0, abs=0.05)  # half of the 2,000 waited longer
    assert sum(measured.late_s) == 0


def test_a_sender_that_is_late_itself_hides_nothing() -> None:
    """It waits for each answer, so it sends late; the time since the intended one is the latency all the same."""
    kind, careless = VirtualClock(), VirtualClock()
    free = run_open(VirtualServer(kind, 0.005, STALL), every_10_ms(100), 0.0, 100.0, kind)
    blocked = run_open(VirtualServer(careless, 0.005, STALL, blocks=True), every_10_ms(100), 0.0, 100.0, careless)
    assert blocked.latencies_s == pytest.approx(free.latencies_s)
    assert max(blocked.late_s) == pytest.approx(10.0, abs=0.01)
    assert max(free.late_s) == 0


def test_concurrency_is_kept() -> None:
    clock = VirtualClock()
    measured = run_closed(VirtualServer(clock, 0.125), 4, 0.0, 10.0, clock)
    assert measured.finished == 79
    assert measured.latencies_s == [0.125, 0.25, 0.375] + [0.5] * 80


def test_warm_up_is_sent_and_not_counted() -> None:
    clock = VirtualClock()
    server = VirtualServer(clock, 0.001)
    measured = run_open(server, every_10_ms(3), 1.0, 2.0, clock)
    assert len(server.sent_s) == measured.finished_ever == 300
    assert measured.sent == len(measured.latencies_s) == measured.finished == 200


def test_errors_by_kind_miss_the_goal_and_bring_no_throughput() -> None:
    clock = VirtualClock()
    server = VirtualServer(clock, 0.001, fails=frozenset({3, 4, 5}), loses=frozenset({7}))
    measured = run_open(server, every_10_ms(1), 0.0, 1.0, clock, drain_s=5.0)
    assert dict(measured.errors) == {"odd": 3, "unanswered": 1}
    assert measured.finished == len(measured.latencies_s) == 96
    assert measured.share_within(0.0011) == 0.96
    assert measured.share_within(0.0009) == 0.0
    assert Measured().share_within(1.0) == 0.0


def test_arrivals_are_poisson_and_seeded() -> None:
    arrivals_s = draw_arrivals_s(50.0, 400.0, seed=1)
    assert arrivals_s == draw_arrivals_s(50.0, 400.0, seed=1) != draw_arrivals_s(50.0, 400.0, seed=2)
    assert arrivals_s == sorted(arrivals_s)
    assert 0 <= arrivals_s[0] < arrivals_s[-1] < 400
    gaps_s = [after - before for before, after in pairwise(arrivals_s)]
    mean_s = sum(gaps_s) / len(gaps_s)
    deviation_s = (sum((gap_s - mean_s) ** 2 for gap_s in gaps_s) / len(gaps_s)) ** 0.5
    assert mean_s == pytest.approx(0.02, rel=0.03)
    assert deviation_s == pytest.approx(mean_s, rel=0.03)  # as of an exponential distribution


def test_the_real_clock_waits_for_a_condition() -> None:
    clock = RealClock()
    assert clock.wait(lambda: True, clock.now_s() - 1)
    assert not clock.wait(lambda: False, clock.now_s() - 1)
    end_s = clock.now_s() + 0.01
    clock.sleep_until(end_s)
    assert clock.now_s() >= end_s
