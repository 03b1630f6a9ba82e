"""What a queue with a constant service time would do (M/D/c): the yardstick of a measured latency. Knows no server.

Poisson arrivals, c equal servers, first come first served, every service takes the same time. No simple form gives percentiles for
c > 1, so the queue is simulated (Kiefer-Wolfowitz: a request starts when it is there and a server is free), seeded; M/D/1's known mean
and distribution (Erlang) hold it in the tests.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ARRIVALS, _WARM = 400_000, 20_000
_SEED = 9


@dataclass(frozen=True)
class Queue:
    """A served model as such a queue.

    Attributes:
        servers: c.
        service_s: D, of one request in one server.
        overhead_s: of a request, beside waiting and service: the way there and back, which keeps no server busy.
    """

    servers: int
    service_s: float
    overhead_s: float = 0.0

    @property
    def highest_rate(self) -> float:
        """Requests per second that it can just not stand."""
        return self.servers / self.service_s


def fit_queue(alone_s: float, highest_rate: float) -> Queue:
    """The queue of a model that answers a single request in `alone_s` and at most `highest_rate` requests per second.

    c = as many requests as it works on at a time (Little: rate × time, rounded), D = c / rate, so that the queue saturates where the model
    does; what a single request takes beyond D is overhead.
    """
    servers = max(1, round(highest_rate * alone_s))
    service_s = servers / highest_rate
    return Queue(servers, service_s, max(0.0, alone_s - service_s))


def predict_s(queue: Queue, load: float, level: float) -> float:
    """A percentile of the latency at a share of the highest rate.

    Args:
        load: 0 < load < 1.
        level: 0…100.
    """
    if not 0 < load < 1:
        raise ValueError(f"load: expected 0 < load < 1, got {load:g}: at 1 the queue grows without end")
    waits_s = simulate_waits_s(queue.servers, queue.service_s, load * queue.highest_rate)
    return float(np.percentile(waits_s, level, method="inverted_cdf")) + queue.service_s + queue.overhead_s


def simulate_waits_s(servers: int, service_s: float, rate_per_s: float, arrivals: int = _ARRIVALS) -> npt.NDArray[np.float64]:
    """Time in the queue of each request, float64 (arrivals), after a warm-up."""
    gaps_s = np.random.default_rng(_SEED).exponential(1 / rate_per_s, arrivals + _WARM)
    waits_s = np.empty(len(gaps_s))
    free_s, now_s = [0.0] * servers, 0.0  # when each server is free, a heap
    for number, gap_s in enumerate(gaps_s.tolist()):
        now_s += gap_s
        start_s = max(now_s, free_s[0])
        heapq.heapreplace(free_s, start_s + service_s)
        waits_s[number] = start_s - now_s
    return waits_s[_WARM:]
