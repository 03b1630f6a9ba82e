"""One load on a served model as one point of a result file. Knows which figures a point has, not which points are wanted."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clients.endpoint import Entry
from serving.status import ModelRates, Snapshot, rates

from .footprint import Costs
from .load import Clock, Measured, RealClock, draw_arrivals_s, run_closed, run_open
from .percentiles import summarize_ms
from .served import Served
from .triton_target import Shape, open_target

_PRIORITY_SHARE = 0.2  # of the requests of a mixed load, that are urgent
_URGENT = 1


@dataclass(frozen=True)
class Window:
    """How long each load lasts: `warm_s` are sent and not counted."""

    seconds: float
    warm_s: float


class Runs:
    """Loads one served model; one load at a time."""

    def __init__(self, served: Served, window: Window, seed: int, clock: Clock | None = None) -> None:
        self.served, self.window, self.seed = served, window, seed
        self._clock = clock or RealClock()

    def closed(self, concurrency: int, shape: Shape, entry: Entry | None = None) -> dict[str, Any]:
        """So many requests on the way, all the time."""
        entry = entry or self.served.entry
        with open_target(self.served.address, entry, shape, self.served.admin_headers) as target:
            window = self.window
            figures, (measured,) = self._observed(
                lambda: (run_closed(target, concurrency, window.warm_s, window.seconds, self._clock),), shape.batch
            )
        return _told("closed", entry, shape) | {"concurrency": concurrency} | _figures(measured, shape.batch) | figures

    def open(self, rate_per_s: float, shape: Shape, *, least_requests: int = 0, goal_s: float | None = None) -> dict[str, Any]:
        """Poisson arrivals of requests.

        Args:
            least_requests: lasts longer where the window would bring fewer.
            goal_s: also tell the share of requests that were answered within it.
        """
        seconds = max(self.window.seconds, least_requests / rate_per_s)
        arrivals_s = draw_arrivals_s(rate_per_s, self.window.warm_s + seconds, self.seed)
        with open_target(self.served.address, self.served.entry, shape, {}) as target:
            figures, (measured,) = self._observed(
                lambda: (run_open(target, arrivals_s, self.window.warm_s, seconds, self._clock),), shape.batch
            )
        goal = {} if goal_s is None else {"goal_ms": 1000 * goal_s, "share_within_goal": round(measured.share_within(goal_s), 5)}
        return _told("open", self.served.entry, shape) | {"rate": rate_per_s} | _figures(measured, shape.batch) | goal | figures

    def mixed(self, rate_per_s: float) -> dict[str, Any]:
        """Urgent requests (a fifth) beside the others, told apart, in one open load: the sum of two Poisson processes is one."""
        shapes = {"urgent": Shape(priority=_URGENT), "others": Shape(priority=self.served.priority_levels)}
        shares = {"urgent": _PRIORITY_SHARE, "others": 1 - _PRIORITY_SHARE}
        seconds, warm_s = self.window.seconds, self.window.warm_s
        found: dict[str, Measured] = {}

        def load(number: int, name: str) -> None:
            arrivals_s = draw_arrivals_s(rate_per_s * shares[name], warm_s + seconds, self.seed + number)
            with open_target(self.served.address, self.served.entry, shapes[name], {}) as target:
                found[name] = run_open(target, arrivals_s, warm_s, seconds, self._clock)

        def together() -> tuple[Measured, ...]:
            threads = [threading.Thread(target=load, args=(number, name)) for number, name in enumerate(shapes)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return tuple(found.values())

        figures, _ = self._observed(together, 1)
        by_priority = {name: _figures(measured, 1) | {"priority": shapes[name].priority} for name, measured in found.items()}
        return {"mode": "open", "model": self.served.entry.name, "rate": rate_per_s, "by_priority": by_priority} | figures

    def _observed(self, load: Callable[[], tuple[Measured, ...]], batch: int) -> tuple[dict[str, Any], tuple[Measured, ...]]:
        """What the load cost, and where in the server the time went."""
        before = self._snapshot()
        costs = Costs(self._pids())
        costs.begin()
        measured = load()
        figures: dict[str, Any] = costs.end()
        tiles = batch * sum(each.finished_ever for each in measured)
        figures["cpu_ms_per_tile"] = {name: round(1000 * cpu_s / tiles, 3) if tiles else None for name, cpu_s in figures["cpu_s"].items()}
        after = self._snapshot()
        figures["steps"] = (
            None if before is None or after is None else [step_figures(rate) for rate in rates(before, after) if rate.requests_per_s]
        )
        return figures, measured

    def _snapshot(self) -> Snapshot | None:
        return None if self.served.snapshot is None else self.served.snapshot()

    def _pids(self) -> dict[str, tuple[int, bool]]:
        """The server may be a child of this process: then its children are not the client's."""
        server = {} if self.served.pid is None else {"server": (self.served.pid, True)}
        return {"client": (os.getpid(), False), **server}


def step_figures(rate: ModelRates) -> dict[str, Any]:
    """One model between two moments: an entry has `request_ms`, its whole time in the server; a step its queue and its execution."""
    figures: Mapping[str, float | None] = {
        "requests_per_s": rate.requests_per_s,
        "mean_batch": rate.mean_batch,
        "queue_ms": rate.queue_ms,
        "execution_ms": rate.batch_ms if rate.kind == "step" else None,
        "request_ms": rate.request_ms,
    }
    return {"model": rate.name, "kind": rate.kind} | {name: None if value is None else round(value, 3) for name, value in figures.items()}


def _told(mode: str, entry: Entry, shape: Shape) -> dict[str, Any]:
    given = "encoded" if entry.contract.takes == "image" else "raw"
    return {"mode": mode, "model": entry.name, "input": given, "batch": shape.batch, "memory": shape.memory}


def _figures(measured: Measured, batch: int) -> dict[str, Any]:
    """Those that every load has."""
    per_s = measured.finished / measured.seconds
    return {
        "seconds": round(measured.seconds, 3),
        "requests": measured.sent,
        "answered": len(measured.latencies_s),
        "errors": dict(sorted(measured.errors.items())),
        "requests_per_s": round(per_s, 3),
        "tiles_per_s": round(per_s * batch, 3),
        "latency_ms": summarize_ms(measured.latencies_s),
        "sent_late_ms": round(1000 * statistics.fmean(measured.late_s), 3) if measured.late_s else None,
    }
