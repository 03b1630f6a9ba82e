"""Result files as sections of a report: which parts each kind shows. Knows the kinds, no field of their points."""

from __future__ import annotations

from collections.abc import Callable

from .report_document import Plot, Section, Table
from .report_generic import Content, Points, origin, point_tables, ratio_tables
from .report_limits import limits_parts
from .report_server import server_parts
from .report_slides import peers_parts, slide_parts

Parts = tuple[list[Table], list[Plot]]
_KINDS: dict[str, Callable[[Content, Points], Parts]] = {
    "bench-server": server_parts,
    "bench-limits": limits_parts,
    "bench-slide": slide_parts,
    "bench-peers": peers_parts,
}


def section_of(content: Content) -> Section:
    """One result file; a kind that is not known here is a table of what its points hold."""
    points = [point for point in content["points"] if "skipped" not in point]
    make = _KINDS.get(content["kind"])
    tables, plots = ([*ratio_tables(content["ratios"]), *point_tables(points)], []) if make is None else make(content, points)
    skipped = tuple(f"Not measured, {point['name']}: {point['skipped']}." for point in content["points"] if "skipped" in point)
    return Section(
        f"bench {content['kind'].removeprefix('bench-')}",
        (*origin(content), *skipped),
        tuple(tables),
        tuple(plots),
    )
