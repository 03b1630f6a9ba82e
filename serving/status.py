"""What a running server is doing, as plain data: counters of one moment, and rates between two. Asks nobody but the client it is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from .check import parse_contract
from .modelconfig import Config
from .supervisor import Restart

Kind = Literal["entry", "release", "slide", "step"]
State = Literal["ready", "restarting"]
_NS = 1e-9


@dataclass(frozen=True)
class ModelCounters:
    """One model since it was loaded.

    Attributes:
        kind: "entry" for callers, "release" the frozen ensemble behind it, "slide" what slides stream to, "step" a model of its own.
        release: the frozen ensemble that it is or belongs to; "" for steps.
        requests: answered; `failures` are not among them.
        tiles: in those requests.
        batches: executions; 0 for ensembles, which execute nothing themselves.
        request_s: sum over requests of their whole time in the server.
        queue_s: sum over requests of their time in the queue.
        batch_s: sum over batches of their execution.
        last_request: ISO 8601, UTC; None = none yet.
    """

    name: str
    kind: Kind
    release: str
    requests: int
    failures: int
    tiles: int
    batches: int
    request_s: float
    queue_s: float
    batch_s: float
    last_request: str | None


@dataclass(frozen=True)
class Snapshot:
    """One moment.

    Attributes:
        time_s: seconds since 1970.
        version: of Triton.
        state: while it is "restarting" there are no models.
        restarts: since `histoserve serve` was started, oldest first.
    """

    time_s: float
    address: str
    version: str
    state: State
    models: tuple[ModelCounters, ...]
    restarts: tuple[Restart, ...]


@dataclass(frozen=True)
class ModelRates:
    """One model between two moments; None = nothing happened that could be averaged.

    Attributes:
        mean_batch: tiles per execution.
        waiting: requests in the queue on average.
        queue_ms, request_ms: of a request.
        batch_ms: of one execution: the time of the step.
    """

    name: str
    kind: Kind
    release: str
    requests_per_s: float
    failures_per_s: float
    tiles_per_s: float
    mean_batch: float | None
    waiting: float
    queue_ms: float | None
    request_ms: float | None
    batch_ms: float | None


def read_models(statistics: Any, configs: Mapping[str, Config]) -> tuple[ModelCounters, ...]:
    """Counters from the answer of gRPC's statistics, entries first."""
    order = ("entry", "release", "slide", "step")
    found = [_read_model(entry, configs[entry.name]) for entry in statistics.model_stats if entry.name in configs]
    return tuple(sorted(found, key=lambda model: (order.index(model.kind), model.name)))


def rates(before: Snapshot, after: Snapshot) -> tuple[ModelRates, ...]:
    """Per model of `after`; one that was loaded in between counts from zero."""
    earlier = {model.name: model for model in before.models}
    seconds = max(after.time_s - before.time_s, 1e-9)
    return tuple(_rate(earlier.get(model.name), model, seconds) for model in after.models)


def to_dict(snapshot: Snapshot) -> dict[str, Any]:
    return dataclasses.asdict(snapshot)


def from_dict(raw: Mapping[str, Any]) -> Snapshot:
    """Parse what `to_dict` wrote.

    Raises:
        KeyError, TypeError: it is something else.
    """
    models = tuple(ModelCounters(**model) for model in raw["models"])
    restarts = tuple(Restart(**restart) for restart in raw["restarts"])
    return Snapshot(raw["time_s"], raw["address"], raw["version"], raw["state"], models, restarts)


def _read_model(entry: Any, config: Config) -> ModelCounters:
    stats = entry.inference_stats
    kind, release = _kind(config)
    last_s = entry.last_inference / 1000
    return ModelCounters(
        name=entry.name,
        kind=kind,
        release=release,
        requests=stats.success.count,
        failures=stats.fail.count,
        tiles=entry.inference_count,
        batches=sum(batch.compute_infer.count for batch in entry.batch_stats),  # an ensemble's own count is that of its requests
        request_s=stats.success.ns * _NS,
        queue_s=stats.queue.ns * _NS,
        batch_s=sum(batch.compute_input.ns + batch.compute_infer.ns + batch.compute_output.ns for batch in entry.batch_stats) * _NS,
        last_request=datetime.fromtimestamp(last_s, UTC).isoformat(timespec="seconds") if last_s else None,
    )


def _kind(config: Config) -> tuple[Kind, str]:
    contract = parse_contract(config)
    if contract is None:
        return "step", ""
    kinds: dict[str, Kind] = {contract.release: "release", contract.slide_model: "slide"}
    return kinds.get(config.name, "entry"), contract.release


def _rate(before: ModelCounters | None, after: ModelCounters, seconds: float) -> ModelRates:
    if before is None or before.requests > after.requests or before.failures > after.failures:
        before = dataclasses.replace(after, requests=0, failures=0, tiles=0, batches=0, request_s=0.0, queue_s=0.0, batch_s=0.0)
    requests, batches, tiles = after.requests - before.requests, after.batches - before.batches, after.tiles - before.tiles
    queue_s = after.queue_s - before.queue_s
    return ModelRates(
        name=after.name,
        kind=after.kind,
        release=after.release,
        requests_per_s=requests / seconds,
        failures_per_s=(after.failures - before.failures) / seconds,
        tiles_per_s=tiles / seconds,
        mean_batch=_mean(tiles, batches),
        waiting=queue_s / seconds,  # Little: the time that all have waited, over the time that passed
        queue_ms=_mean(1000 * queue_s, requests),
        request_ms=_mean(1000 * (after.request_s - before.request_s), requests),
        batch_ms=_mean(1000 * (after.batch_s - before.batch_s), batches),
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None
