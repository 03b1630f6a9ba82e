"""One run of slides through the embedded Triton: what it cost the client, the server, and each step. Knows no plan."""

from __future__ import annotations

from typing import Any

from serving.embedded import EmbeddedTriton
from serving.status import rates

from .gpu_use import GpuWatch, find_nvml
from .peers_tree import TreeWatch
from .server_runs import step_figures
from .slide_runs import SlideRun, measure_run


def measure_beside(server: EmbeddedTriton, run: SlideRun) -> dict[str, Any]:
    """As `measure_run`, and of the server: `server_cpu_s`, `server_peak_mb` (10⁶ bytes, stubs included), `gpu` (`GpuWatch.figures`), `steps` (its own account).

    Raises:
        ClientError: a slide or the server.
    """
    before = server.snapshot()
    with TreeWatch([server.pid]) as watch, GpuWatch(server.pid, find_nvml()) as gpu:
        figures = measure_run(run)
    steps = [step_figures(rate) for rate in rates(before, server.snapshot()) if rate.requests_per_s]
    server_figures = {"server_cpu_s": round(watch.cpu_s, 3), "server_peak_mb": round(watch.peak_bytes / 1e6, 1), "gpu": gpu.figures}
    return {**figures, **server_figures, "steps": steps}
