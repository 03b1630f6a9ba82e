"""What a bench command cannot do; part of the tree in `benchmarks/errors.py`."""

from __future__ import annotations

from ..errors import BenchmarkError


class BenchError(BenchmarkError):
    """A measurement of speed cannot be made."""


class ResultError(BenchError):
    """A result file is none of ours, or holds a run that this one cannot go on with."""


class SharedMemoryError(BenchError):
    """A server of another machine, or one whose shared-memory protocol is behind a secret that is not ours."""
