"""Results of `bench slide` and `bench peers` in a report: phases, growth, medians and goals. Knows the fields of their points."""

from __future__ import annotations

from .peers_ratios import RATIOS, by_peer, summarize, verdict
from .report_document import Plot, Table
from .report_generic import Content, Points, gpu_tables, point_tables, ratio_tables, text_of
from .report_plots import Line, plot_lines, plot_stack
from .slide_scaling import measured_counts, scaling_of

_GROWN = "grow "


def slide_parts(content: Content, points: Points) -> tuple[list[Table], list[Plot]]:
    """Tables and plots."""
    return [*ratio_tables(content["ratios"]), *point_tables(points), *gpu_tables(points)], [
        *_phase_plot(points),
        *_growth_plot(content, points),
        *_instances_plot(points),
    ]


def peers_parts(content: Content, points: Points) -> tuple[list[Table], list[Plot]]:
    """Medians over the rounds by peer, and each ratio against its goal; failed runs are named."""
    found = {peer: summarize(runs) for peer, runs in by_peer(list(points)).items()}
    figures = tuple(dict.fromkeys(figure for summary in found.values() for figure in summary))
    medians = tuple(
        (peer, *(text_of(summary[figure][1] if figure in summary else None) for figure in figures)) for peer, summary in found.items()
    )
    goals = tuple(
        (name, text_of(content["ratios"].get(name)), _goal(name), verdict(ratio, content["ratios"].get(name)))
        for name, ratio in RATIOS.items()
    )
    failed = tuple((point["name"], point["failed"]) for point in points if "failed" in point)
    tables = [
        Table(("ratio", "value", "goal", ""), goals),
        Table(("peer (medians)", *(figure.replace("_", " ") for figure in figures)), medians),
    ]
    gates = tuple((point["name"], *map(text_of, point["gate"].values())) for point in points if "gate" in point)
    if gates:
        names = next(point["gate"] for point in points if "gate" in point)
        tables.append(Table(("export's gate", *(name.replace("_", " ") for name in names)), gates))
    return [*tables, *([Table(("failed", "why"), failed)] if failed else [])], []


def _goal(name: str) -> str:
    ratio = RATIOS[name]
    return "" if ratio.goal is None else f"{'≤' if ratio.at_most else '≥'} {ratio.goal:g}"


def _phase_plot(points: Points) -> list[Plot]:
    known = [point for point in points if point.get("phases") and point.get("tissue_tiles")]
    bars = {
        point["name"]: {phase: 1000 * cpu_s / point["tissue_tiles"] for phase, cpu_s in sorted(point["phases"].items())} for point in known
    }
    caption = "The client's CPU-seconds per 1,000 tiles of tissue by phase."
    return [Plot("slide-phases", caption, plot_stack(bars, "CPU-s per 1,000 tiles"))] if bars else []


def _growth_plot(content: Content, points: Points) -> list[Plot]:
    grown = sorted((point["tissue_tiles"], point["seconds"]) for point in points if point["name"].startswith(_GROWN))
    if len(grown) < 3:
        return []
    tiles = [count for count, _ in grown]
    lines = {"measured": Line(tiles, [seconds for _, seconds in grown])}
    fixed, each = (content["ratios"].get(f"growth_seconds_{name}") for name in ("fixed", "per_1000_tiles"))
    if fixed is not None and each is not None:
        lines[f"{fixed:.2f} s + {each:.3g} s per 1,000 tiles"] = Line(tiles, [fixed + each * count / 1000 for count in tiles])
    return [
        Plot(
            "slide-growth",
            "Seconds of a slide by its tiles of tissue, a model that answers at once.",
            plot_lines(lines, "tiles of tissue", "seconds"),
        )
    ]


def _instances_plot(points: Points) -> list[Plot]:
    known = {point["name"]: point for point in points}
    measured = measured_counts(known)
    if len(measured) < 2:
        return []
    counts = sorted(measured)
    lines = {"measured": Line(counts, [measured[count]["sent_tiles_per_s"] for count in counts])}
    fit = scaling_of(known)
    if fit is not None:
        lines[f"1,000 tiles in {fit.fixed:.3g} s + {fit.each:.3g} s / instances"] = Line(
            counts, [1000 / fit.at(1 / count) for count in counts]
        )
    return [
        Plot(
            "slide-instances",
            "Tiles per second on the way, by instances of the network in the server.",
            plot_lines(lines, "instances", "tiles per second"),
        )
    ]
