"""Where a latency–throughput curve turns, and the highest rate that keeps a goal. Knows curves, no server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One point of a curve: what was asked (concurrency, or requests per second), what came."""

    asked: float
    throughput: float
    latency_ms: float


def find_knee(curve: Sequence[Step]) -> Step | None:
    """The step of the greatest power, throughput / latency (Kleinrock): before it throughput is given away, after it only the queue grows.

    None for fewer than three steps: two have no turn.
    """
    if len(curve) < 3:
        return None
    return max(curve, key=lambda step: step.throughput / step.latency_ms)


def highest_rate(holds: Callable[[float], bool], low: float, high: float, tolerance: float = 0.05) -> float | None:
    """Bisection between rates: the highest tried one that holds the goal, where a higher one by `tolerance` (a share of it) does not.

    Deterministic: the same answers lead to the same rates. `high` is tried first: where it holds, it is returned as it is.

    Returns:
        None where not even `low` holds.

    Raises:
        ValueError: not 0 < low < high, or no tolerance.
    """
    if not 0 < low < high or tolerance <= 0:
        raise ValueError(f"rates: expected 0 < low < high and a tolerance above 0, got {low:g}, {high:g}, {tolerance:g}")
    if holds(high):
        return high
    if not holds(low):
        return None
    while high > low * (1 + tolerance):
        middle = round((low * high) ** 0.5, 3)
        if not low < middle < high:
            break
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
