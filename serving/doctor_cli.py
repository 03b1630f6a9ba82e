"""`histoserve doctor`: the findings as a table or as JSON, and an exit code. Knows flags and colors, nothing of Triton."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .command import FAILED, run
from .doctor import examine, examine_running
from .errors import ServingError
from .exposure import Exposure, port_faults
from .findings import Finding, Question, would_serve

PROGRAM = "histoserve doctor"
_STYLES = {"OK": "green", "warning": "yellow", "failure": "bold red"}


@dataclass(frozen=True)
class Doctor:
    """Say whether `histoserve serve` with these flags would work here, and what to do where not. Exits with 1 if it would not."""

    repository: Path = Path("model_repository")
    """Folder that `histoserve export` writes."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = ()
    """Models to serve; none = every entry for callers."""
    port: int = 8001
    """TCP port of gRPC."""
    running: bool = False
    """Ask the server that already runs with these flags instead: ready, and right values? For health probes."""
    json: bool = False
    """Print JSON on standard output."""
    exposure: Annotated[Exposure, tyro.conf.OmitArgPrefixes] = field(default_factory=Exposure)

    def __post_init__(self) -> None:
        for fault in port_faults(self.exposure, self.port):
            raise ValueError(fault)


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Doctor, args=argv, prog=PROGRAM)
    return run(PROGRAM, lambda: report(options, Console()), (ServingError,))


def report(options: Doctor, console: Console) -> int:
    """Print the findings; 1 where one is a failure."""
    question = Question(options.repository, options.model, options.port, options.exposure)
    findings = list(examine_running(question) if options.running else examine(question))
    if options.json:
        print(json.dumps(as_json(findings), indent=2))
    else:
        console.print(as_table(findings))
        console.print(verdict(findings))
    return 0 if would_serve(findings) else FAILED


def as_json(findings: Sequence[Finding]) -> dict[str, object]:
    return {"would_serve": would_serve(findings), "findings": [dataclasses.asdict(finding) for finding in findings]}


def as_table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "what", "found"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        found = Text(finding.found)  # Text: a path in brackets is no markup
        if finding.remedy:
            found.append(f"\n→ {finding.remedy}", style="bold")
        table.add_row(Text(finding.status, style=_STYLES[finding.status]), finding.name, found)
    return table


def verdict(findings: Sequence[Finding]) -> Text:
    if would_serve(findings):
        return Text("serving would work", style="green")
    failed = ", ".join(finding.name for finding in findings if finding.status == "failure")
    return Text(f"serving would fail: {failed}", style="bold red")
