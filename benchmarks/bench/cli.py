"""`histoserve bench`: finds the sub-command and runs it. Knows their names, and imports only the one that is asked for.

A sub-command NAME is the module `NAME_cli.py` beside this one: `Flags`, a frozen dataclass (the flags and their help), and
`run(flags) -> None`.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

import tyro

from clients.errors import ClientError
from serving.command import FAILED, run
from serving.errors import ServingError

from ..errors import BenchmarkError

PROGRAM = "histoserve bench"
USAGE_CODE = 2
_OWN = ("benchmarks", "clients", "export", "training", "serving")
_KNOWN = {
    "server": "latency and throughput of a served model: closed and open loop, by batch, input and priority",
    "slide": "seconds and CPU-seconds of whole slides by phase, and how they grow",
    "limits": "what this machine could do at best, and the share of it that is reached",
    "peers": "the same slide and weights through other tools, side by side",
    "report": "tables, plots and a page out of the result files",
}


def subcommands() -> dict[str, str]:
    """Name → help of those that are here."""
    return {name: text for name, text in _KNOWN.items() if importlib.util.find_spec(_module_of(name)) is not None}


def main(argv: Sequence[str]) -> int:
    """Run the sub-command; returns the exit code."""
    name, *rest = list(argv) or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in subcommands():
        print(f"{PROGRAM}: unknown sub-command {name!r}\n\n{usage()}", file=sys.stderr)
        return USAGE_CODE
    try:
        module = importlib.import_module(_module_of(name))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _OWN:
            raise  # our own bug: show it
        print(f"{PROGRAM} {name} needs {error.name!r}: pip install 'histoserve[bench]'", file=sys.stderr)
        return FAILED
    return run(f"{PROGRAM} {name}", lambda: _call(name, module, rest), (BenchmarkError, ClientError, ServingError))


def usage() -> str:
    lines = [f"  {name:<10}{text}" for name, text in subcommands().items()]
    return "\n".join([f"usage: {PROGRAM} COMMAND [OPTIONS]", "", *lines, "", f"{PROGRAM} COMMAND --help says more."])


def _call(name: str, module: ModuleType, argv: Sequence[str]) -> int:
    with _ended_like_interrupted():
        module.run(tyro.cli(module.Flags, prog=f"{PROGRAM} {name}", args=list(argv)))
    return 0


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """SIGTERM unwinds as Ctrl-C does: servers and programs that are measured do not outlive the run."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _module_of(name: str) -> str:
    return f"{__package__}.{name}_cli"
