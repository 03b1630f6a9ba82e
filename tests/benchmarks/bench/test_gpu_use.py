"""The GPU's sampler against a module with NVML's functions: figures encode the device and the process they are asked of."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.bench.footprint import Costs
from benchmarks.bench.gpu_use import GpuWatch, find_nvml
from benchmarks.bench.report_generic import gpu_tables, point_tables


class NvmlError(Exception):
    """As pynvml's."""


class FakeNvml:
    """Device i is in use (i + 1)·10 % and holds (i + 1)·10⁹ bytes; process p of the n-th that runs on it holds p·1,000 bytes."""

    NVMLError = NvmlError

    def __init__(self, *running: list[int], tells_memory: bool = True) -> None:
        self.running, self.tells_memory = running, tells_memory

    def nvmlInit(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.running)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"device {index}"

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=10 * (int(handle.split()[1]) + 1), memory=99)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=10**9 * (int(handle.split()[1]) + 1), total=10**12)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        pids = self.running[int(handle.split()[1])]
        return [SimpleNamespace(pid=pid, usedGpuMemory=1000 * pid if self.tells_memory else None) for pid in pids]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.communicate(b"\n")


def _sampled(nvml: FakeNvml, pid: int | None = os.getpid()) -> dict[str, float | None] | None:
    watch = GpuWatch(pid, nvml)
    watch.sample()
    return watch.figures


def test_the_servers_device_is_told_from_others(child: subprocess.Popen[bytes]) -> None:
    """The second of three; its children's memory counts, a stranger's is the device's alone."""
    ours = [os.getpid(), child.pid]
    found = _sampled(FakeNvml([1], [*ours, 1], [1]))
    assert found == {"use_percent": 20.0, "memory_mb": 2000.0, "server_mb": round(sum(ours) / 1e3, 1)}


def test_two_devices_of_one_server_are_added() -> None:
    found = _sampled(FakeNvml([os.getpid()], [1], [os.getpid()]))
    assert found == {"use_percent": 20.0, "memory_mb": 4000.0, "server_mb": round(2 * os.getpid() / 1e3, 1)}


@pytest.mark.parametrize("nvml", [FakeNvml([]), FakeNvml([1]), FakeNvml([os.getpid()], tells_memory=False)])
def test_the_only_device_counts_where_the_servers_processes_are_not_seen(nvml: FakeNvml) -> None:
    assert _sampled(nvml) == {"use_percent": 10.0, "memory_mb": 1000.0, "server_mb": None}


def test_a_server_on_none_of_several_devices_is_not_measured() -> None:
    assert _sampled(FakeNvml([1], [1])) is None


def test_the_mean_of_use_and_the_most_memory_are_told() -> None:
    nvml = FakeNvml([os.getpid()], [])
    watch = GpuWatch(os.getpid(), nvml)
    watch.sample()
    nvml.running = ([], [os.getpid()])
    watch.sample()
    assert watch.figures == {"use_percent": 15.0, "memory_mb": 2000.0, "server_mb": round(os.getpid() / 1e3, 1)}


def test_costs_hold_it_from_begin_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.bench.footprint.find_nvml", lambda: FakeNvml([os.getpid()]))
    for name, use in (("server", 10.0), ("client", None)):
        costs = Costs({name: (os.getpid(), False)})
        costs.begin()
        figures = costs.end()
        assert (figures["gpu"] and figures["gpu"]["use_percent"]) == use


def test_sampling_that_fails_ends_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    class Lost(FakeNvml):
        def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
            raise NvmlError("GPU is lost")

    with GpuWatch(os.getpid(), Lost([os.getpid()])) as watch:
        while watch._thread.is_alive():
            time.sleep(0.01)
    assert watch.figures is None
    assert caplog.messages == ["GPU: sampling ended: GPU is lost"]


class _NoDriver(FakeNvml):
    def nvmlInit(self) -> None:
        raise NvmlError("NVML Shared Library Not Found")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (None, "the package nvidia-ml-py is not installed"),
        (_NoDriver(), "NVML Shared Library Not Found"),
        (FakeNvml(), "the driver knows no device"),
    ],
)
def test_what_is_missing_is_said_once(module: Any, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def import_module(name: str) -> Any:
        assert name == "pynvml"
        if module is None:
            raise ModuleNotFoundError(name)
        return module

    find_nvml.cache_clear()
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(importlib, "import_module", import_module)
        assert (find_nvml(), find_nvml()) == (None, None)
    find_nvml.cache_clear()
    assert caplog.messages == [f"GPU: not measured, null in the result: {said}"]
    with GpuWatch(os.getpid(), None) as watch:
        pass
    assert watch.figures is None


def test_the_report_shows_it_where_there_is_one() -> None:
    gpu = {"use_percent": 61.25, "memory_mb": 5120.0, "server_mb": None}
    points = [{"name": "a", "seconds": 1.0, "gpu": gpu}, {"name": "b", "seconds": 2.0, "gpu": None}]
    (table,) = gpu_tables(points)
    assert table.rows == (("a", "61.25", "5,120", "–"),)
    assert gpu_tables(points[1:]) == []
    assert [row for each in point_tables(points) for row in each.rows] == [("a", "1"), ("b", "2")]
