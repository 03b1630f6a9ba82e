"""The exceptions of benchmarks.

BenchmarkError
├── EvaluationError   a truth that cannot be compared with the mask
└── CommandError      one of our own commands failed
"""

from __future__ import annotations


class BenchmarkError(Exception):
    """A measurement cannot be made; the message names the object, what was expected, what came and the remedy."""


class EvaluationError(BenchmarkError):
    """A truth that cannot be compared with the mask."""


class CommandError(BenchmarkError):
    """One of our own commands failed; its message stands above."""
