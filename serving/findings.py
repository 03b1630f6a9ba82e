"""What `histoserve doctor` asks and what it finds, as plain data. Looks at nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .errors import ServingError
from .exposure import Exposure

Status = Literal["OK", "warning", "failure"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        status: "failure": `histoserve serve` would not start, or would answer wrong values.
        found: what was seen, in words.
        remedy: what to do; empty where nothing has to be done.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Question:
    """What is to be served, and how: the flags of `histoserve serve`.

    Attributes:
        models: empty = every entry for callers.
        port: of gRPC.
    """

    repository: Path = Path("model_repository")
    models: tuple[str, ...] = ()
    port: int = 8001
    exposure: Exposure = field(default_factory=Exposure)


def would_serve(findings: Iterable[Finding]) -> bool:
    return all(finding.status != "failure" for finding in findings)


def judged(name: str, check: Callable[[], str]) -> Finding:
    """OK with what a check says it saw, or the failure that it raises."""
    try:
        return Finding(name, "OK", check())
    except ServingError as error:
        return failure(name, error)


def failure(name: str, error: ServingError) -> Finding:
    """Every message of this folder ends with ": remedy"."""
    found, _, remedy = " ".join(str(error).split()).rpartition(": ")
    return Finding(name, "failure", found or remedy, remedy if found else "")
