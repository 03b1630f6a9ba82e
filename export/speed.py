"""How much faster one graph is than another in ONNX Runtime on this machine. Knows no precision.

Both run in one process in alternating rounds, and only the ratio of neighbors counts: what else the machine does comes and goes with both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from serving.contract import TILE

ALL_THREADS = 0
_ERRORS_ONLY = 3  # of ONNX Runtime's log


@dataclass(frozen=True)
class Speed:
    """How many times as fast the candidate is.

    Attributes:
        threads: 0 stands for as many as ONNX Runtime takes.
        ratio: median of the rounds; above 1 the candidate is faster.
        low, high: quartiles of the rounds.
        clock: one thread is timed by its processor time, which other processes do not lengthen; all of them by the wall.
        baseline_ms: per tile, of the fp32 graph; median of the rounds.
    """

    threads: int
    ratio: float
    low: float
    high: float
    rounds: int
    clock: Literal["processor", "wall"]
    baseline_ms: float

    def __str__(self) -> str:
        threads = "all threads" if self.threads == ALL_THREADS else f"{self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.ratio:.2f}× ({self.low:.2f}…{self.high:.2f}) with {threads}"


def measure_speeds(baseline: onnx.ModelProto, candidate: onnx.ModelProto, tiles: npt.NDArray[np.uint8], rounds: int) -> tuple[Speed, Speed]:
    """With one thread, and with all.

    Args:
        tiles: one batch, uint8 (n, tile_px, tile_px, 3).
        rounds: each runs both graphs once; at least 1.
    """
    return _measure(baseline, candidate, tiles, rounds, 1), _measure(baseline, candidate, tiles, rounds, ALL_THREADS)


def _measure(baseline: onnx.ModelProto, candidate: onnx.ModelProto, tiles: npt.NDArray[np.uint8], rounds: int, threads: int) -> Speed:
    clock = time.thread_time if threads == 1 else time.perf_counter  # one thread computes in the one that calls
    sessions = [_session(model, threads) for model in (baseline, candidate)]
    for session in sessions:  # the first run allocates
        session.run(None, {TILE: tiles})
    taken = np.empty((rounds, 2))
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            taken[turn, which] = _time(sessions[which], tiles, clock)
    return compare(taken, threads, len(tiles))


def compare(taken_s: npt.NDArray[np.float64], threads: int, tiles: int) -> Speed:
    """What rounds say.

    Args:
        taken_s: (rounds, 2), seconds of the baseline and of the candidate in the same round.
        tiles: in the batch that each ran.
    """
    low, ratio, high = np.quantile(taken_s[:, 0] / taken_s[:, 1], (0.25, 0.5, 0.75)).tolist()
    baseline_ms = float(np.median(taken_s[:, 0])) * 1000 / tiles
    return Speed(threads, ratio, low, high, len(taken_s), "processor" if threads == 1 else "wall", baseline_ms)


def _session(model: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ONLY
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _time(session: onnxruntime.InferenceSession, tiles: npt.NDArray[np.uint8], clock: Callable[[], float]) -> float:
    start = clock()
    session.run(None, {TILE: tiles})
    return clock() - start
