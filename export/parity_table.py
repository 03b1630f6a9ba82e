"""The figures of a gate as a table in a terminal. Knows no graph."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from .figures import ParityReport
from .precision import PrecisionReport


def parity_table(title: str, reports: Sequence[ParityReport]) -> Table:
    """Every figure beside its limit, a column per engine; below, which engines were not asked and why."""
    ran = list(dict.fromkeys(report.engine for report in reports if report.not_run is None))
    absent = dict.fromkeys(f"{report.engine} not run: {report.not_run}" for report in reports if report.not_run is not None)
    table = Table(title=f"parity: {title}", caption="; ".join(absent), box=box.SIMPLE, title_justify="left", caption_justify="left")
    for heading in ("graph", "figure", "limit"):
        table.add_column(heading, overflow="fold")
    for engine in ran:
        table.add_column(engine, justify="right")
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for report in reports:
        for figure in report.figures:
            value = f"{figure.value:.6g}" if figure.is_within else f"[bold red]{figure.value:.6g}[/]"
            rows.setdefault((report.graph, figure.name, figure.limit), {})[report.engine] = value
    for row, values in rows.items():
        table.add_row(*row, *(values.get(engine, "") for engine in ran))
    return table


def cost_table(cost: PrecisionReport) -> Table:
    """What a precision costs and gives beside fp32."""
    table = Table(title=f"{cost.graph} in {cost.precision} beside fp32, {cost.tiles} tiles")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("size", f"{cost.bytes_candidate / 2**20:.1f} of {cost.bytes_fp32 / 2**20:.1f} MiB")
    for name, value in cost.figures.items():
        table.add_row(name, f"{value:.6g}")
    table.add_row(f"mean IoU lost, points ({cost.reference})", f"{cost.miou_loss:.3f}")
    for speed in cost.speeds:
        table.add_row("speed", str(speed))
    return table
