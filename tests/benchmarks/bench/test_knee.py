"""Curves and goals whose answer is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.knee import Step, find_knee, highest_rate


@pytest.mark.parametrize("cores", [2, 4, 8])
def test_the_knee_of_a_saturating_server_is_where_it_saturates(cores: int) -> None:
    """n callers of 10 ms: throughput grows until n = cores, from there the latency does."""
    counts = [1, 2, 4, 8, 16, 32]
    curve = [Step(count, 100.0 * min(count, cores), 10.0 * max(1, count / cores)) for count in counts]
    knee = find_knee(curve)
    assert knee is not None
    assert knee.asked == cores


def test_two_points_have_no_knee() -> None:
    assert find_knee([Step(1, 10, 1), Step(2, 20, 1)]) is None


@given(st.floats(6, 94))
def test_bisection_comes_near_the_limit_from_below(limit: float) -> None:
    asked: list[float] = []

    def holds(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = highest_rate(holds, 5.0, 95.0, tolerance=0.05)
    assert found is not None
    assert found <= limit < found * 1.06
    assert len(asked) <= 9


def test_the_ends_of_bisection() -> None:
    assert highest_rate(lambda rate: True, 1.0, 80.0) == 80.0
    assert highest_rate(lambda rate: False, 1.0, 80.0) is None
    with pytest.raises(ValueError, match="0 < low < high"):
        highest_rate(lambda rate: True, 5.0, 5.0)
