"""What Triton's own log says about why it did not start. Reads text, starts nothing."""

from __future__ import annotations

import re

_LEVEL = re.compile(r"^([EWI])\d{4} [\d:.]+ +\d+ +(?:\S+:\d+\] )?")
_BIND = re.compile(r"failed to start gRPC|Failed to add port|[Uu]navailable - Socket|address already in use", re.IGNORECASE)
_TABLE_ROW = re.compile(r"^\| (\S+) +\| (\d+) +\| (UNAVAILABLE.*?) *\|$")
_MAX_CHARS = 1200
_END = "histoserve: tritonserver ended"  # the watchdog's line; it is a script of its own and imports nothing


def is_port_taken(log: str) -> bool:
    """Whether the server ended because it could not bind."""
    return any(_BIND.search(line) for line in log.splitlines())


def failure_reason(log: str) -> str:
    """The lines that explain a failed start: the models that failed and why, else the errors, else the end of the log."""
    lines = log.splitlines()
    models = [f"model {match[1]!r}: {match[3].removeprefix('UNAVAILABLE: ')}" for line in lines if (match := _TABLE_ROW.match(line))]
    errors = [_LEVEL.sub("", line).strip('" ') for line in lines if line.startswith("E")]
    chosen = models or errors or lines[-5:]
    return shorten("; ".join(dict.fromkeys(line.strip() for line in chosen if line.strip())))


def end_reason(log: str) -> str:
    """How a server that had been ready ended, by the watchdog's last line: "it ended by SIGKILL"."""
    end = next((line.removeprefix(_END).strip() for line in reversed(log.splitlines()) if line.startswith(_END)), "without a word")
    return f"it ended {end}"


def shorten(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…"
