"""A report as Markdown with plots beside it, and as one HTML page with them inside; same document, same bytes. Knows no result file."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_STYLE = (
    "body{font:14px sans-serif;margin:24px auto;max-width:1100px;color:#222}table{border-collapse:collapse;margin:12px 0}"
    "td,th{padding:3px 9px;border-bottom:1px solid #ddd;text-align:right}th:first-child,td:first-child{text-align:left}"
    "figure{margin:16px 0}figcaption{color:#555}svg{max-width:100%;height:auto}code{background:#f4f4f4}"
)


@dataclass(frozen=True)
class Table:
    """Cells are text already."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        name: of its file, without ending.
        svg: the whole file.
    """

    name: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Section:
    """One result file.

    Attributes:
        notes: paragraphs; `code` between backticks.
    """

    title: str
    notes: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = field(default=())


def as_markdown(title: str, sections: Sequence[Section]) -> str:
    """Plots are links to `NAME.svg` in the same folder."""
    parts = [f"# {title}"]
    for section in sections:
        parts += [f"## {section.title}", *section.notes, *map(_markdown_table, section.tables)]
        parts += [f"![{plot.caption}]({plot.name}.svg)\n\n{plot.caption}" for plot in section.plots]
    return "\n\n".join(parts) + "\n"


def as_html(title: str, sections: Sequence[Section]) -> str:
    """One file that needs no other."""
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1>"]
    for section in sections:
        parts += [f"<h2>{html.escape(section.title)}</h2>", *(f"<p>{_inline(note)}</p>" for note in section.notes)]
        parts += [_html_table(table) for table in section.tables]
        parts += [f"<figure>{_inside(plot)}<figcaption>{html.escape(plot.caption)}</figcaption></figure>" for plot in section.plots]
    return "\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    rule = ("---", *("---:" for _ in table.heads[1:]))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (table.heads, rule, *table.rows))


def _html_table(table: Table) -> str:
    heads = "".join(f"<th>{html.escape(head)}</th>" for head in table.heads)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _inside(plot: Plot) -> str:
    """Without what a file of its own needs; names of clip paths made different, since one page holds several plots."""
    svg = plot.svg[plot.svg.index("<svg") :].strip()
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{plot.name}-\1"', svg)
    return re.sub(r'(url\(#|href="#)', rf"\1{plot.name}-", svg)


def _inline(text: str) -> str:
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))
