"""Triton and its stubs as the kernel shows them (Linux): a killed stub is seen at once, though the server still calls itself ready. Ends nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_SERVER = "tritonserver"
_STUB = "triton_python_b"  # the kernel keeps 15 characters of triton_python_backend_stub
_INSTANCE = 8  # place of the instance's name among the stub's arguments (2.51)
_GONE = ("Z", "X")  # ended, and nobody has asked for its exit code yet


@dataclass(frozen=True)
class Process:
    """One living process.

    Attributes:
        name: at most 15 characters.
        started: clock ticks after the machine's start: with the pid it is unmistakable.
    """

    pid: int
    name: str
    parent: int
    started: int


def read_process(pid: int) -> Process | None:
    """None where it ended."""
    try:
        raw = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, tail = raw.rpartition(")")  # a name may hold blanks and brackets
    fields = tail.split()
    return None if fields[0] in _GONE else Process(pid, head.partition("(")[2], int(fields[1]), int(fields[19]))


def server_of(watchdog: int) -> Process | None:
    """The Triton under a watchdog; None before it runs, and after."""
    return next((process for process in _living() if process.parent == watchdog and process.name == _SERVER), None)


def stubs_of(server: int) -> tuple[Process, ...]:
    """The python stubs of a Triton; none where every model has a native backend."""
    return tuple(process for process in _living() if process.parent == server and process.name == _STUB)


def stub_instance(stub: Process) -> str:
    """The model instance that a stub serves, e.g. "demo_r1_background_0_0"; "" where it ended."""
    try:
        arguments = (PROC / str(stub.pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return arguments[_INSTANCE].decode(errors="replace") if len(arguments) > _INSTANCE else ""


def model_of(instance: str) -> str:
    """Triton's name of an instance is the model's, the number of its group and its own: model_0_0."""
    return instance.rsplit("_", 2)[0]


def ended(processes: tuple[Process, ...]) -> list[Process]:
    """Those that no longer live."""
    return [process for process in processes if read_process(process.pid) != process]


def _living() -> Iterator[Process]:
    for folder in PROC.iterdir():
        process = read_process(int(folder.name)) if folder.name.isdigit() else None
        if process is not None:
            yield process
