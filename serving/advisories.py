"""Which Triton versions have published holes that a network port reaches (research: serving.md §6.2). Data and comparisons; asks nobody."""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, ...]


@dataclass(frozen=True)
class Advisory:
    """One security bulletin.

    Attributes:
        bulletin: the vendor's number.
        fixed_in: the first server version without the holes. Server versions count months as image tags do; 24.10 is 2.51, 25.08 is 2.60.
        container: the same as an image tag, e.g. "25.08".
        holes: the worst ones, in words.
        severity: the highest CVSS score, 0…10; None where the research does not have it.
    """

    bulletin: str
    fixed_in: Version
    container: str
    holes: str
    severity: float | None


ADVISORIES = (
    Advisory("5612", (2, 53), "24.12", "overflow in the load API (CVE-2024-53880)", None),
    Advisory("5687", (2, 59, 1), "25.07", "HTTP stack overflow, python backend (CVE-2025-23310, 23311, 23317, 23319, 23320, 23334)", 9.8),
    Advisory("5691", (2, 60), "25.08", "code execution through a model's name in model control (CVE-2025-23316)", 9.8),
    Advisory("5734", (2, 62), "25.10", "stack overflow on large payloads (CVE-2025-33202, 33201, 33211)", 7.5),
    Advisory("5816", (2, 66), "26.02", "compressed bombs among others (CVE-2026-24158, 24146, 24147, 24173…24175)", None),
    Advisory("5828", (2, 67), "26.03", "authorization bypass (CVE-2026-24207, 24206)", 9.8),
    Advisory("5848", (2, 68), "26.04", "decompression, use after free (CVE-2026-24264, 24266)", None),
    Advisory("5853", (2, 69), "26.05", "denial of service, authorization bypass (CVE-2026-47476…47482)", 7.5),
    Advisory("5865", (2, 70), "26.06", "path traversal (CVE-2026-47627, 47606, 47628…47630)", 9.8),
    Advisory("5875", (2, 71), "26.07", "found externally, details unpublished", None),
)
LEAST_FOR_A_NETWORK = ADVISORIES[-1]
MODEL_CONTROL = next(advisory for advisory in ADVISORIES if advisory.bulletin == "5691")


def open_holes(version: Version) -> tuple[Advisory, ...]:
    """The bulletins whose fixes a version lacks, oldest first."""
    return tuple(advisory for advisory in ADVISORIES if version < advisory.fixed_in)


def holes_text(version: Version) -> str:
    """Those of the highest score in words, and how many bulletins there are; empty where there is none."""
    holes = open_holes(version)
    if not holes:
        return ""
    severity = max(hole.severity or 0 for hole in holes)
    named = "; ".join(hole.holes for hole in holes if (hole.severity or 0) == severity)
    score = f", CVSS {severity}" if severity else ""
    return f"{len(holes)} bulletins of published holes{score}: {named}"
