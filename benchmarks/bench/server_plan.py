"""Which loads `bench server` puts on a model, in which order, and what follows from them. Knows no Triton."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .errors import BenchError, SharedMemoryError
from .knee import Step, find_knee, highest_rate
from .percentiles import least_samples
from .queueing import fit_queue, predict_s
from .results import Point, Results
from .server_runs import Runs
from .triton_target import Shape

Part = Literal["closed", "batch", "encoded", "memory", "open", "priority", "slo"]
MDC_LOAD = 0.7
_SPARE = 1.15  # more requests than p99 needs: their number is random
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Plan:
    """The loads; see the flags of `bench server`."""

    parts: tuple[Part, ...]
    concurrency: tuple[int, ...]
    batches: tuple[int, ...]
    loads: tuple[float, ...]
    slo_ms: float | None
    slo_percentile: float


def run_plan(plan: Plan, runs: Runs, results: Results, say: Callable[[Point], None]) -> None:
    """Measure what the file lacks; `say` is told each point, also those that were there.

    Raises:
        BenchError: nothing was answered, so that nothing can follow.
    """
    _Series(plan, runs, results, say).run()


class _Series:
    def __init__(self, plan: Plan, runs: Runs, results: Results, say: Callable[[Point], None]) -> None:
        self._plan, self._runs, self._results, self._say = plan, runs, results, say

    def run(self) -> None:
        closed = [self._point(f"closed {count}", self._closed(count, Shape())) for count in self._concurrency()]
        rate = max(point["requests_per_s"] for point in closed)
        if rate <= 0:
            raise BenchError(
                f"model {self._runs.served.entry.name!r}: no request was answered ({closed[0]['errors']}): look at the server's log"
            )
        busiest = next(point["concurrency"] for point in closed if point["requests_per_s"] == rate)
        parts = {"batch": self._batch, "encoded": self._encoded, "memory": self._memory, "priority": self._priority}
        for part in self._plan.parts:
            if part in parts:
                parts[part](busiest, rate)
        for load in self._loads():
            self._open(load, rate)
        yardstick = self._yardstick(busiest) if "open" in self._plan.parts else None
        found = self._slo(rate) if "slo" in self._plan.parts and self._plan.slo_ms is not None else None
        self._results.finish(follow(closed, yardstick, found))

    def _concurrency(self) -> tuple[int, ...]:
        """Without the sweep its ends are needed all the same: the first for the service time, the last for the highest rate."""
        counts = tuple(sorted({1, *self._plan.concurrency}))
        return counts if "closed" in self._plan.parts else tuple(sorted({counts[0], counts[-1]}))

    def _loads(self) -> tuple[float, ...]:
        return tuple(sorted(set(self._plan.loads))) if "open" in self._plan.parts else ()

    def _closed(self, concurrency: int, shape: Shape) -> Callable[[], dict[str, Any]]:
        return lambda: self._runs.closed(concurrency, shape)

    def _open(self, load: float, rate: float) -> None:
        self._point(f"open {load:g}", lambda: {"load": load, **self._runs.open(round(load * rate, 3), Shape())})

    def _yardstick(self, busiest: int) -> Yardstick:
        """Service time and highest rate anew, right before the load that is held against them: machines change while they are measured."""
        alone = self._point("mdc closed 1", self._closed(1, Shape()))
        most = self._point(f"mdc closed {busiest}", self._closed(busiest, Shape()))
        asked, least = round(MDC_LOAD * most["requests_per_s"], 3), math.ceil(_SPARE * least_samples(99))
        return Yardstick(
            alone, most, self._point("mdc open", lambda: {"load": MDC_LOAD, **self._runs.open(asked, Shape(), least_requests=least)})
        )

    def _batch(self, busiest: int, rate: float) -> None:
        most = self._runs.served.entry.max_batch
        for batch in sorted({size for size in self._plan.batches if size <= most}):
            concurrency = max(2, math.ceil(busiest / batch))
            self._point(f"batch {batch}", self._closed(concurrency, Shape(batch=batch)))

    def _encoded(self, busiest: int, rate: float) -> None:
        image = self._runs.served.image_entry
        if image is None:
            self._point("encoded", lambda: {"skipped": "the server has no entry for image files of this model"})
            return
        self._point("encoded", lambda: self._runs.closed(busiest, Shape(), image))

    def _memory(self, busiest: int, rate: float) -> None:
        """Both at the greatest batch of the sweep, one right after the other."""
        batch = min(max(self._plan.batches, default=1), self._runs.served.entry.max_batch)
        concurrency = max(2, math.ceil(busiest / batch))
        self._point("memory grpc", self._closed(concurrency, Shape(batch=batch)))

        def shared() -> dict[str, Any]:
            try:
                return self._runs.closed(concurrency, Shape(batch=batch, memory="shared"))
            except SharedMemoryError as error:
                return {"skipped": str(error)}

        self._point("memory shared", shared)

    def _priority(self, busiest: int, rate: float) -> None:
        if not self._runs.served.priority_levels:
            self._point("priority", lambda: {"skipped": "no step of the model knows priorities"})
            return
        self._point("priority", lambda: self._runs.mixed(round(0.9 * rate, 3)))

    def _slo(self, rate: float) -> float | None:
        """The highest rate, requests per second, that holds the goal; errors miss it."""
        level, goal_ms = self._plan.slo_percentile, float(self._plan.slo_ms or 0)
        least = math.ceil(_SPARE * least_samples(level))

        def holds(asked: float) -> bool:
            point = self._point(f"slo {asked:g}/s", lambda: self._runs.open(asked, Shape(), least_requests=least, goal_s=goal_ms / 1000))
            return bool(point["share_within_goal"] >= level / 100)

        return highest_rate(holds, round(0.05 * rate, 3), round(0.98 * rate, 3), _TOLERANCE)

    def _point(self, name: str, measure: Callable[[], dict[str, Any]]) -> Point:
        point = self._results.measure(name, measure)
        self._say(point)
        return point


@dataclass(frozen=True)
class Yardstick:
    """What is compared with a queue: one caller, as many as are answered fastest, and Poisson arrivals at 70 % of that rate."""

    alone: Point
    most: Point
    at_load: Point


def follow(closed: Sequence[Point], yardstick: Yardstick | None, slo_rate: float | None) -> dict[str, float | None]:
    """What the points say together; None = a figure it needs is not there.

    Returns:
        `p99_over_mdc`: p99 at 70 % load over what a queue with the measured service time predicts (`queueing.py`), `mdc_p99_ms`,
        `mdc_servers` and `mdc_service_ms` that queue; `knee_concurrency` and `knee_requests_per_s` of the closed curve; `slo_requests_per_s`.
    """
    curve = [Step(point["concurrency"], point["requests_per_s"], mean) for point in closed if (mean := point["latency_ms"]["mean"])]
    knee = find_knee(curve)
    found: dict[str, float | None] = {
        "knee_concurrency": None if knee is None else knee.asked,
        "knee_requests_per_s": None if knee is None else knee.throughput,
        "slo_requests_per_s": slo_rate,
    }
    return found | _against_queue(yardstick)


def _against_queue(yardstick: Yardstick | None) -> dict[str, float | None]:
    p99_ms = None if yardstick is None else yardstick.at_load["latency_ms"]["p99"]
    if yardstick is None or p99_ms is None or not yardstick.alone["latency_ms"]["mean"]:
        return {"p99_over_mdc": None}
    queue = fit_queue(yardstick.alone["latency_ms"]["mean"] / 1000, yardstick.most["requests_per_s"])
    predicted_ms = 1000 * predict_s(queue, MDC_LOAD, 99)
    return {
        "p99_over_mdc": round(p99_ms / predicted_ms, 3),
        "mdc_p99_ms": round(predicted_ms, 3),
        "mdc_servers": queue.servers,
        "mdc_service_ms": round(1000 * queue.service_s, 3),
    }
