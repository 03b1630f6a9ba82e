"""What a command costs with all it starts: wall, CPU and memory of the whole process tree, and of servers beside it. Knows no peer."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

from .errors import BenchError

_SAMPLE_S = 0.1
_Key = tuple[int, float]  # pid and start: unmistakable


@dataclass(frozen=True)
class Cost:
    """One command.

    Attributes:
        wall_s: from its start to its end.
        cpu_s: user and system, of it, all it started, and the servers beside it while it ran.
        peak_mb: greatest sum of resident memory, in 10⁶ bytes; pages that processes share count for each of them.
        output: what it printed on standard output.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    output: str


class CommandFailed(BenchError):
    """A command that is measured ended with an error, or not at all."""


class TreeWatch:
    """Samples the trees under some processes until the block ends.

    Args:
        beside: processes that run already: what they used before counts nothing.

    Attributes:
        cpu_s: seen so far; a process that lives shorter than a sample (0.1 s) can be missed.
        peak_bytes: greatest sum of resident memory.
    """

    def __init__(self, beside: Iterable[int] = ()) -> None:
        self.peak_bytes = 0
        self._roots = list(beside)
        self._before_s: dict[_Key, float] = {}
        self._last_s: dict[_Key, float] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @property
    def cpu_s(self) -> float:
        return sum(cpu_s - self._before_s.get(key, 0.0) for key, cpu_s in self._last_s.items())

    def add(self, pid: int) -> None:
        """Watch this one too, from its start."""
        self._roots.append(pid)

    def __enter__(self) -> Self:
        self.sample()
        self._before_s = dict(self._last_s)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        self.sample()

    def sample(self) -> None:
        """Look once."""
        total_bytes = 0
        for process in _trees(self._roots):
            try:
                with process.oneshot():
                    times, key = process.cpu_times(), (process.pid, process.create_time())
                    total_bytes += process.memory_info().rss
            except psutil.Error:
                continue  # it ended meanwhile
            self._last_s[key] = times.user + times.system
        self.peak_bytes = max(self.peak_bytes, total_bytes)

    def _watch(self) -> None:
        while not self._end.wait(_SAMPLE_S):
            self.sample()


def measure_command(
    command: Sequence[str], *, environment: Mapping[str, str] | None = None, beside: Sequence[int] = (), limit_s: float = 3600.0
) -> Cost:
    """Run a command to its end.

    Args:
        environment: added to this process's.
        beside: servers that work for it, which are measured while it runs.

    Raises:
        CommandFailed: it ended with an error, whose last line is told, or not within `limit_s`.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+", errors="replace") as complaints, TreeWatch(beside) as watch:
        start_s = time.monotonic()
        # A session of its own: what it leaves behind can be ended with it.
        process = subprocess.Popen(
            command, stdout=output, stderr=complaints, env={**os.environ, **(environment or {})}, start_new_session=True, text=True
        )
        watch.add(process.pid)
        timer = threading.Timer(limit_s, lambda: _end_session(process.pid))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            _end_session(process.pid)
            process.wait()  # an interrupted one has not been waited for
        wall_s = time.monotonic() - start_s
        output.seek(0)
        complaints.seek(0)
        text, complaint = output.read(), complaints.read()
    if process.returncode:
        raise CommandFailed(_reason(command, process.returncode, complaint, wall_s >= limit_s))
    # Sampling sees what nobody waited for, the kernel's account what was too short to be sampled.
    cpu_s = max(watch.cpu_s, usage.ru_utime + usage.ru_stime) if not beside else watch.cpu_s
    return Cost(round(wall_s, 3), round(cpu_s, 3), round(watch.peak_bytes / 1e6, 1), text)


def _trees(roots: Iterable[int]) -> list[psutil.Process]:
    found: dict[int, psutil.Process] = {}
    for root in list(roots):
        try:
            process = psutil.Process(root)
            found |= {member.pid: member for member in (process, *process.children(recursive=True))}
        except psutil.Error:
            continue
    return list(found.values())


def _end_session(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _reason(command: Sequence[str], code: int, complaint: str, late: bool) -> str:
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    said = lines[-1][-400:] if lines else "nothing"
    what = "was ended, since it took too long (--limit-s)" if late else f"ended with exit code {code}"
    return f"{' '.join(command[:3])} …: expected it to end well, it {what}; it said: {said}"
