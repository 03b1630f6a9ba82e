"""`histoserve serve --status`: a running server's state, live in the terminal or once as JSON. Knows tables, nothing of Triton."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import NoReturn

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .status import ModelRates, Snapshot, rates, to_dict
from .status_socket import read_status

_INTERVAL_S = 1.0
_LAST_RESTARTS = 3
_COLUMNS = ("model", "kind", "requests/s", "failed/s", "tiles/s", "batch", "waiting", "queue ms", "request ms", "step ms")


def show(path: Path, console: Console) -> NoReturn:
    """Refresh until Ctrl-C.

    Raises:
        StatusError: no server answers (anymore).
    """
    before = read_status(path)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            time.sleep(_INTERVAL_S)
            after = read_status(path)
            live.update(as_view(after, rates(before, after)), refresh=True)
            before = after


def print_json(path: Path) -> None:
    """One snapshot with its counters, and the rates over the second before it."""
    before = read_status(path)
    time.sleep(_INTERVAL_S)
    after = read_status(path)
    print(json.dumps(to_dict(after) | {"rates": [dataclasses.asdict(rate) for rate in rates(before, after)]}, indent=2))


def as_view(snapshot: Snapshot, models: tuple[ModelRates, ...]) -> Group:
    head = Text(f"{snapshot.address}: Triton {snapshot.version}, ")
    head.append(snapshot.state, style="green" if snapshot.state == "ready" else "bold yellow")
    entries = [f"{model.name} → {model.release}" for model in models if model.kind == "entry"]
    lines: list[RenderableType] = [
        head,
        *(Text(entry) for entry in entries),
        as_table(models),
        *(Text(line) for line in restart_lines(snapshot)),
    ]
    return Group(*lines)


def as_table(models: tuple[ModelRates, ...]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("model", "kind") else "right")
    for model in models:
        counted = (model.requests_per_s, model.failures_per_s, model.tiles_per_s, model.mean_batch, model.waiting)
        timed = (model.queue_ms, model.request_ms, model.batch_ms)
        table.add_row(model.name, model.kind, *(_number(value) for value in (*counted, *timed)))
    return table


def restart_lines(snapshot: Snapshot) -> list[str]:
    """The latest restarts; nothing where there was none."""
    if not snapshot.restarts:
        return []
    latest = [
        f"  {restart.time}: {restart.reason} (back after {restart.recovery_s:.1f} s)" for restart in snapshot.restarts[-_LAST_RESTARTS:]
    ]
    return [f"restarts: {len(snapshot.restarts)}", *latest]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"
