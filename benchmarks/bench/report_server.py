"""A result of `bench server` in a report: loads, steps, the latency–throughput curve. Knows the fields of its points."""

from __future__ import annotations

from .report_document import Plot, Table
from .report_generic import Content, Point, Points, gpu_tables, ratio_tables, text_of
from .report_plots import Line, plot_lines, plot_stack

_LEVELS = ("p50", "p90", "p95", "p99", "p99.9")
_RARE = 0.2  # of the requests: the server's own checks call other steps now and then


def server_parts(content: Content, points: Points) -> tuple[list[Table], list[Plot]]:
    """Tables and plots."""
    loads = [point for point in points if "latency_ms" in point]
    heads = (
        "load",
        "tiles/s",
        *(f"{level} ms" for level in _LEVELS),
        "requests",
        "errors",
        "client CPU-ms/tile",
        "server CPU-ms/tile",
        "server MB",
    )
    tables = [Table(heads, tuple(_server_row(point) for point in loads))]
    mixed = [(name, part) for point in points for name, part in point.get("by_priority", {}).items()]
    if mixed:
        rows = tuple((name, *(text_of(part["latency_ms"][level]) for level in _LEVELS)) for name, part in mixed)
        tables.append(Table(("priority", *(f"{level} ms" for level in _LEVELS)), rows))
    tables.append(Table(("load", "model", "mean batch", "queue ms", "execution ms", "whole ms"), tuple(_step_rows(loads))))
    return [*ratio_tables(content["ratios"]), *tables, *gpu_tables(points)], [*_latency_plot(content, loads), *_step_plot(loads)]


def _server_row(point: Point) -> tuple[str, ...]:
    errors = ", ".join(f"{kind} {count}" for kind, count in point["errors"].items()) or "0"
    costs = (*(point["cpu_ms_per_tile"].get(name) for name in ("client", "server")), point["rss_mb"].get("server"))
    levels = (text_of(point["latency_ms"][level]) for level in _LEVELS)
    return (point["name"], text_of(point["tiles_per_s"]), *levels, str(point["requests"]), errors, *map(text_of, costs))


def _step_rows(loads: Points) -> list[tuple[str, ...]]:
    """Of the closed sweep and of files: what the others add to them are queues."""
    shown = [point for point in loads if point["name"].startswith(("closed ", "encoded")) and point["steps"]]
    fields = ("mean_batch", "queue_ms", "execution_ms", "request_ms")
    return [
        (point["name"], step["model"], *(text_of(step[field]) for field in fields))
        for point in shown
        for step in point["steps"]
        if step["kind"] == "step" or step["model"] == point["model"]
    ]


def _latency_plot(content: Content, loads: Points) -> list[Plot]:
    lines: dict[str, Line] = {}
    for mode, labels in (("closed", "concurrency"), ("open", "load")):
        curve = [point for point in loads if point["mode"] == mode and point["name"].startswith(f"{mode} ")]
        for level in ("p50", "p95", "p99"):
            known = [point for point in curve if point["latency_ms"][level] is not None]
            if known:
                xs, ys = [point["requests_per_s"] for point in known], [point["latency_ms"][level] for point in known]
                lines[f"{mode} loop, {level}"] = Line(xs, ys, [f"{point[labels]:g}" for point in known] if level == "p50" else ())
    if not lines:
        return []
    marks = {name: content["ratios"].get(key) for name, key in (("knee", "knee_requests_per_s"), ("latency goal", "slo_requests_per_s"))}
    svg = plot_lines(lines, "requests answered per second", "latency, ms", marks={name: x for name, x in marks.items() if x is not None})
    caption = "Latency over throughput; at the points the concurrency (closed) or the share of the highest rate (open, intended times)."
    return [Plot("server-latency", caption, svg)]


def _step_plot(loads: Points) -> list[Plot]:
    bars: dict[str, dict[str, float]] = {}
    for point in (point for point in loads if point["name"].startswith("closed ") and point["steps"]):
        entry = next((step for step in point["steps"] if step["kind"] == "entry"), None)
        bar = {} if entry is None else {"client and way": max(0.0, point["latency_ms"]["mean"] - entry["request_ms"])}
        for step in (
            step for step in point["steps"] if step["kind"] == "step" and step["requests_per_s"] > _RARE * point["requests_per_s"]
        ):
            short = step["model"].rsplit("_", 1)[-1]
            bar |= {f"{short}: queue": step["queue_ms"] or 0.0, f"{short}: execution": step["execution_ms"] or 0.0}
        bars[point["name"]] = bar
    if not bars:
        return []
    caption = "A request's time by step (Triton's statistics); the background rule runs beside the network: the parts exceed the whole."
    return [Plot("server-steps", caption, plot_stack(bars, "ms of a request"))]
