"""`histoserve bench report`: result files in, Markdown, plots and a page out. Knows files alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clients.summary import replace_file

from .errors import ResultError
from .report_document import as_html, as_markdown
from .report_sections import section_of
from .results import read_results

TITLE = "histoserve: measured speed"
_FILES = "bench-*.json"


@dataclass(frozen=True)
class Flags:
    """Make tables, plots and one page out of result files. The same files give the same bytes."""

    results: Path = Path("benchmarks/results")
    """Folder of result files (bench-*.json)."""
    output: Path = Path("out/bench-report")
    """Folder that gets report.md with its plots, and report.html, which needs no other file."""


def run(flags: Flags) -> None:
    """Write the report and name it.

    Raises:
        ResultError: there is no result file, or one cannot be read.
    """
    paths = sorted(flags.results.glob(_FILES))
    if not paths:
        raise ResultError(
            f"{flags.results}: expected result files ({_FILES}), found none: measure first, e.g. with `histoserve bench limits`"
        )
    sections = [section_of(read_results(path)) for path in paths]
    flags.output.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for plot in section.plots:
            _write(flags.output / f"{plot.name}.svg", plot.svg)
    _write(flags.output / "report.md", as_markdown(TITLE, sections))
    _write(flags.output / "report.html", as_html(TITLE, sections))
    print(f"{flags.output}: report.html, report.md and plots out of {len(paths)} files")


def _write(path: Path, text: str) -> None:
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))
