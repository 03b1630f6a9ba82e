"""What this machine does at best: matrix products, memory, JPEG decoding, on one core and on all. Knows no model and no server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg
import threadpoolctl

from .tiles import encode_tile, make_tiles

_GEMM_SIDE = 1536  # past the caches of a core, and a few hundred ms of one
_COPY_BYTES = 256 << 20  # past every cache


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def gemm_gflops(threads: int, seconds: float) -> float:
    """fp32 matrix products by numpy's BLAS, 1e9 floating-point operations per second of all threads together; each has its own matrices."""
    random = np.random.default_rng(0)
    pairs = [random.random((2, _GEMM_SIDE, _GEMM_SIDE), dtype=np.float32) for _ in range(threads)]
    sums = [np.empty((_GEMM_SIDE, _GEMM_SIDE), dtype=np.float32) for _ in range(threads)]
    with threadpoolctl.threadpool_limits(1):
        products_per_s = best_per_s(lambda thread: np.matmul(pairs[thread][0], pairs[thread][1], out=sums[thread]), threads, seconds)
    return products_per_s * 2 * _GEMM_SIDE**3 / 1e9


def copy_gb_s(threads: int, seconds: float) -> float:
    """Memory copied, bytes read and bytes written both counted, 1e9 per second."""
    size = _COPY_BYTES // threads
    sources = [np.ones(size, dtype=np.uint8) for _ in range(threads)]
    targets = [np.zeros(size, dtype=np.uint8) for _ in range(threads)]
    copies_per_s = best_per_s(lambda thread: np.copyto(targets[thread], sources[thread]), threads, seconds)
    return copies_per_s * 2 * size / 1e9


def decode_per_s(threads: int, tile_px: int, seconds: float) -> float:
    """JPEG tiles of this side decoded per second, by the decoder that reads slides."""
    data = encode_tile(make_tiles(1, tile_px)[0])
    return best_per_s(lambda thread: simplejpeg.decode_jpeg(data, colorspace="RGB"), threads, seconds)


def best_per_s(call: Callable[[int], object], threads: int, seconds: float, turns: int = 3) -> float:
    """How often per second so many threads call it together: the best turn, since other work on the machine can only slow it down.

    Args:
        call: is given the number of its thread; must release the interpreter's lock.
        seconds: of all turns together.
    """
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, range(threads)))  # the first touches memory and starts threads
        return max(_turn_per_s(pool, call, threads, seconds / turns) for _ in range(turns))


def _turn_per_s(pool: ThreadPoolExecutor, call: Callable[[int], object], threads: int, seconds: float) -> float:
    start_s = time.perf_counter()

    def repeat(thread: int) -> int:
        count = 0
        while time.perf_counter() - start_s < seconds:
            call(thread)
            count += 1
        return count

    done = sum(pool.map(repeat, range(threads)))
    return done / (time.perf_counter() - start_s)
