"""CPU-seconds and memory of processes and what they started (psutil). Knows no server beyond its pid."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from .gpu_use import GpuWatch, find_nvml


@dataclass(frozen=True)
class Footprint:
    """Of a process and its children at one moment.

    Attributes:
        cpu_s: since each of them started.
        rss_mb: resident memory, pages that they share counted in each.
    """

    cpu_s: float
    rss_mb: float


def footprint_of(pid: int, *, with_children: bool = True) -> Footprint:
    """Of those that live now.

    Raises:
        psutil.NoSuchProcess: the process itself is gone.
    """
    root = psutil.Process(pid)
    cpu_s = rss_bytes = 0.0
    for process in [root, *(root.children(recursive=True) if with_children else [])]:
        with suppress(psutil.NoSuchProcess):  # a child that just ended
            times = process.cpu_times()
            cpu_s += times.user + times.system
            rss_bytes += process.memory_info().rss
    return Footprint(cpu_s, rss_bytes / 2**20)


def pid_at(port: int) -> int | None:
    """The process of this user that listens on a TCP port of this machine; None = none, or somebody else's."""
    for each in psutil.net_connections("tcp"):
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid is not None:
            return int(each.pid)
    return None


class Costs:
    """CPU and memory of named processes from `begin` to `end`, and of the GPU of the one named "server"."""

    def __init__(self, pids: dict[str, tuple[int, bool]]) -> None:
        """
        Args:
            pids: name → (pid, whether its children count).
        """
        self._pids = pids
        self._before: dict[str, Footprint] = {}
        self._gpu: GpuWatch | None = None

    def begin(self) -> None:
        """Remember where they stand."""
        self._gpu = GpuWatch(self._pids["server"][0] if "server" in self._pids else None, find_nvml())
        self._before = self._take()
        self._gpu.__enter__()

    def end(self) -> dict[str, Any]:
        """`cpu_s` since `begin` and `rss_mb` of now, each by name; `gpu` as of `GpuWatch.figures`."""
        assert self._gpu is not None  # begin comes first
        self._gpu.__exit__()
        after = self._take()
        return {
            "cpu_s": {name: round(after[name].cpu_s - self._before[name].cpu_s, 3) for name in after},
            "rss_mb": {name: round(after[name].rss_mb, 1) for name in after},
            "gpu": self._gpu.figures,
        }

    def _take(self) -> dict[str, Footprint]:
        return {name: footprint_of(pid, with_children=children) for name, (pid, children) in self._pids.items()}
