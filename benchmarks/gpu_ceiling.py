"""What a device can do at best, measured: matrix products by precision, memory copies. Imports torch; knows no network."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

_TURNS = 5
_COPIED = 2  # a copy reads and writes


def seconds_of(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Of one call: the least of some turns of `repeats`, the device having finished; one turn before them warms up."""
    turns = []
    for _ in range(_TURNS + 1):
        wait(device)
        start_s = time.perf_counter()
        for _ in range(repeats):
            call()
        wait(device)
        turns.append((time.perf_counter() - start_s) / repeats)
    return min(turns[1:])


def wait(device: torch.device) -> None:
    """Until everything that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm_tflops(device: torch.device, dtype: torch.dtype, side: int, repeats: int) -> float:
    """10¹² operations a second of square matrix products, 2·side³ each. float32 is true float32: no TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: left @ right, device, repeats) / 1e12


def copy_gb_s(device: torch.device, megabytes: int, repeats: int) -> float:
    """10⁹ bytes a second, read and written, of copies within the device's memory."""
    source = torch.zeros(megabytes * 10**6, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return _COPIED * megabytes * 1e6 / seconds_of(lambda: target.copy_(source), device, repeats) / 1e9
