"""Use and memory of the GPU that a server computes on, sampled through NVML while a block runs. Knows no server beyond its pid; optional."""

from __future__ import annotations

import functools
import importlib
import logging
import statistics
import threading
from collections.abc import Sequence
from typing import Any, Self

import psutil

_SAMPLE_S = 0.2  # NVML's own window for use is 1/6 s to 1 s
_PACKAGE = "nvidia-ml-py"
_LOG = logging.getLogger(__name__)


@functools.lru_cache(maxsize=1)
def find_nvml() -> Any:
    """NVIDIA's module `pynvml`, initialized; None where it, its driver or a GPU is missing, which is said once."""
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError:
        _LOG.warning("GPU: not measured, null in the result: the package %s is not installed", _PACKAGE)
        return None
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        _LOG.warning("GPU: not measured, null in the result: %s", error)
        return None
    if not count:
        _LOG.warning("GPU: not measured, null in the result: the driver knows no device")
        return None
    return nvml


class GpuWatch:
    """Samples the device of the server's processes until the block ends.

    Where none of them is seen on a device (its processes may be hidden in a container) and there is but one, that one is sampled.

    Args:
        pid: root of the server's processes; None = not known here.
        nvml: `find_nvml()`; None = nothing is measured.
    """

    def __init__(self, pid: int | None, nvml: Any) -> None:
        self._pid, self._nvml = pid, nvml
        self._use: list[float] = []
        self._device_bytes: list[int] = []
        self._server_bytes: list[int | None] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self._nvml is not None and self._pid is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._end.set()
            self._thread.join()

    @property
    def figures(self) -> dict[str, float | None] | None:
        """None = nothing was measured.

        Returns:
            use_percent: mean of the samples: share of the time in which some kernel ran, of whatever process.
            memory_mb: greatest use of the device's memory, by whatever process, in 10⁶ bytes.
            server_mb: greatest sum of the server's processes; None where the driver does not tell of them.
        """
        if not self._use:
            return None
        own = [count for count in self._server_bytes if count is not None]
        return {
            "use_percent": round(statistics.fmean(self._use), 2),
            "memory_mb": round(max(self._device_bytes) / 1e6, 1),
            "server_mb": round(max(own) / 1e6, 1) if own else None,
        }

    def sample(self) -> None:
        """Look once; a server that is on no device that can be told from others adds nothing."""
        handles = [self._nvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._nvml.nvmlDeviceGetCount())]
        pids = _tree(self._pid)
        own = [self._bytes_of(handle, pids) for handle in handles]
        chosen = [handle for handle, held in zip(handles, own, strict=True) if held is not None] or (handles if len(handles) == 1 else [])
        if not chosen:
            return
        self._use.append(statistics.fmean(float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) for handle in chosen))
        self._device_bytes.append(sum(int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used) for handle in chosen))
        self._server_bytes.append(sum(held for held in own if held is not None) if any(held is not None for held in own) else None)

    def _bytes_of(self, handle: Any, pids: Sequence[int]) -> int | None:
        """Of the server's processes on a device; None where none of them is there, or the driver does not say how much they hold."""
        running = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        held = [process.usedGpuMemory for process in running if process.pid in pids]
        return None if not held or None in held else sum(held)

    def _watch(self) -> None:
        while True:
            try:
                self.sample()
            except self._nvml.NVMLError as error:
                _LOG.warning("GPU: sampling ended: %s", error)
                return
            if self._end.wait(_SAMPLE_S):
                return


def _tree(pid: int | None) -> list[int]:
    if pid is None:
        return []
    try:
        root = psutil.Process(pid)
        return [pid, *(child.pid for child in root.children(recursive=True))]
    except psutil.Error:
        return [pid]
