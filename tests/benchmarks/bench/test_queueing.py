"""The simulated queue against what is known of M/D/1, and how a queue is fitted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.bench.queueing import Queue, fit_queue, predict_s, simulate_waits_s


@pytest.mark.parametrize("load", [0.3, 0.7, 0.8])
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(load: float) -> None:
    waits_s = simulate_waits_s(1, 1.0, load)
    assert waits_s.mean() == pytest.approx(load / (2 * (1 - load)), rel=0.05)
    assert (waits_s == 0).mean() == pytest.approx(1 - load, abs=0.01)  # as many find it idle


def crommelin(load: float, wait: float) -> float:
    """M/D/1: the share of requests that wait at most so many service times (Erlang 1909)."""
    terms = (math.exp(load * (wait - k)) * (load * (k - wait)) ** k / math.factorial(k) for k in range(int(wait) + 1))
    return (1 - load) * math.fsum(terms)


@pytest.mark.parametrize("wait", [0.5, 1.0, 2.5, 4.0])
def test_the_distribution_is_erlangs(wait: float) -> None:
    waits_s = simulate_waits_s(1, 1.0, 0.7)
    assert (waits_s <= wait).mean() == pytest.approx(crommelin(0.7, wait), abs=0.006)


def test_the_prediction_is_waiting_service_and_way() -> None:
    p99_wait = float(np.percentile(simulate_waits_s(1, 0.02, 35.0), 99, method="inverted_cdf"))
    assert crommelin(0.7, p99_wait / 0.02) == pytest.approx(0.99, abs=0.001)
    assert predict_s(Queue(1, 0.02, 0.005), 0.7, 99) == pytest.approx(p99_wait + 0.025)


def test_more_servers_of_the_same_sum_wait_less() -> None:
    one, two = (predict_s(Queue(servers, servers * 0.01), 0.7, 99) - servers * 0.01 for servers in (1, 2))
    assert 0 < two < one


def test_without_load_there_is_no_wait() -> None:
    assert predict_s(Queue(1, 0.02, 0.005), 1e-6, 99) == pytest.approx(0.025)


@pytest.mark.parametrize("load", [0.0, 1.0, 1.2])
def test_a_queue_that_is_full_has_no_percentile(load: float) -> None:
    with pytest.raises(ValueError, match="grows without end"):
        predict_s(Queue(1, 1.0), load, 99)


def test_the_fitted_queue_saturates_where_the_model_does() -> None:
    """30 ms alone and 100/s at most: three at a time; 25 ms and 50/s: one in 20 ms, and 5 ms of way."""
    assert fit_queue(0.030, 100.0) == Queue(3, 0.03, 0.0)
    found = fit_queue(0.025, 50.0)
    assert (found.servers, found.service_s, found.highest_rate) == (1, 0.02, 50.0)
    assert found.overhead_s == pytest.approx(0.005)
