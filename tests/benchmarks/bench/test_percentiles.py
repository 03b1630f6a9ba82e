"""Percentiles of samples whose percentiles are known, and how many values each takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.percentiles import interval, least_samples, percentile, summarize_ms


def test_known_percentiles() -> None:
    thousand = list(range(1, 1001))
    assert [percentile(thousand[::-1], level) for level in (50, 90, 95, 99)] == [500, 900, 950, 990]
    assert percentile(range(1, 10_001), 99.9) == 9990


@pytest.mark.parametrize(("level", "least"), [(50, 6), (90, 36), (95, 72), (99, 368), (99.9, 3688)])
def test_too_few_values_support_no_percentile(level: float, least: int) -> None:
    assert least_samples(level) == least
    assert percentile([1.0] * (least - 1), level) is None
    assert interval([1.0] * (least - 1), level) is None
    assert percentile([1.0] * least, level) == 1.0


def test_a_summary_leaves_open_what_it_cannot_know() -> None:
    told = summarize_ms([value / 1000 for value in range(1, 101)])
    assert told == {
        "p50": 50.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": None,
        "p99.9": None,
        "p99_interval": None,
        "mean": 50.5,
        "greatest": 100.0,
    }
    assert set(summarize_ms([]).values()) == {None}


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """The 99th percentile of an exponential distribution is ln 100."""
    random = np.random.default_rng(3)
    bounds = [interval(random.exponential(1.0, 1000).tolist(), 99) for _ in range(400)]
    held = sum(found is not None and found[0] <= np.log(100) <= found[1] for found in bounds)
    assert 0.92 <= held / 400 <= 0.99


@given(st.lists(st.floats(0, 1e6), min_size=36, max_size=80), st.sampled_from([50.0, 75.0, 90.0]))
def test_a_percentile_is_a_value_that_its_share_does_not_exceed(values: list[float], level: float) -> None:
    found = percentile(values, level)
    assert found in values
    assert sum(value < found for value in values) < level / 100 * len(values) <= sum(value <= found for value in values)
