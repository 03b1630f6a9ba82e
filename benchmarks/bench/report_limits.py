"""A result of `bench limits` in a report: its figures and the roofline. Knows the fields of its points."""

from __future__ import annotations

from .report_document import Plot, Table
from .report_generic import Content, Points, point_tables, ratio_tables
from .report_plots import plot_roofline


def limits_parts(content: Content, points: Points) -> tuple[list[Table], list[Plot]]:
    """Tables and plots."""
    tables = [*ratio_tables(content["ratios"]), *point_tables(points)]
    known = {point["name"]: point for point in points}
    threads = content["machine"]["cores"]
    if not {"arithmetic", "reached", f"gemm {threads}", f"copy {threads}"} <= set(known):
        return tables, []
    counted, reached = known["arithmetic"], known["reached"]
    per_byte = counted["gflop_per_tile"] * 1000 / (counted["tile_mb"] + counted["weight_mb"] / reached["batch"])
    rates = {name: reached[f"{name}_tiles_per_s"] * counted["gflop_per_tile"] for name in ("engine", "served")}
    svg = plot_roofline(known[f"gemm {threads}"]["gflops"], known[f"copy {threads}"]["gb_s"], per_byte, rates)
    return tables, [
        Plot(
            "limits-roofline",
            "Roofline, all cores: what the model reaches in this process and served, under what the machine could do.",
            svg,
        )
    ]
