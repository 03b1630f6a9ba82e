"""What every result file says in a report: origin, ratios, and its points as tables. Knows no kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .report_document import Table

Content = Mapping[str, Any]
Point = Mapping[str, Any]
Points = Sequence[Point]
_NONE = "–"
_LEFT_OUT = ("name", "load_1min", "gpu")


def origin(content: Content) -> tuple[str, ...]:
    """Where the figures are from, in two paragraphs."""
    machine, versions = content["machine"], content["versions"]
    told = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, GPU: {machine['gpu'] or 'none'}, {machine['system']}"
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    loads = [point["load_1min"] for point in content["points"] if "load_1min" in point]
    load = f" Load of the machine before the points: {min(loads):.1f}–{max(loads):.1f}." if loads else ""
    return f"`{content['command']}`", f"{told}. Commit {content['commit']}, {content['created']}. {packages}.{load}"


def text_of(value: Any) -> str:
    """A cell: four digits of a number, a dash where there is none."""
    if value is None:
        return _NONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ratio_tables(ratios: Mapping[str, float | None]) -> list[Table]:
    """No table for a run that was interrupted."""
    return [Table(("figure", "value"), tuple((name, text_of(value)) for name, value in ratios.items()))] if ratios else []


def gpu_tables(points: Points) -> list[Table]:
    """Of the points whose server computed on a GPU; no table where none did."""
    known = [(point["name"], point["gpu"]) for point in points if point.get("gpu")]
    rows = tuple((name, *(text_of(gpu[figure]) for figure in ("use_percent", "memory_mb", "server_mb"))) for name, gpu in known)
    return [Table(("GPU of the server", "use %", "device MB", "server MB"), rows)] if rows else []


def point_tables(points: Points) -> list[Table]:
    """Name and plain figures of each point; points with the same figures share a table."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for point in points:
        fields = tuple(name for name, value in point.items() if name not in _LEFT_OUT and not isinstance(value, Mapping | list))
        groups.setdefault(fields, []).append(point)
    return [_table_of(fields, group) for fields, group in groups.items() if fields]


def _table_of(fields: tuple[str, ...], points: Points) -> Table:
    rows = tuple((point["name"], *(text_of(point[name]) for name in fields)) for point in points)
    return Table(("point", *(name.replace("_", " ") for name in fields)), rows)
