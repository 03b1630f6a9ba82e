"""The exceptions of benchmarks.

BenchmarkError
├── EvaluationError   a truth that cannot be compared with the mask
└── DemoError         a step of the demo failed
"""

from __future__ import annotations


class BenchmarkError(Exception):
    """A measurement cannot be made; the message names the object, what was expected, what came and the remedy."""


class EvaluationError(BenchmarkError):
    """A truth that cannot be compared with the mask."""


class DemoError(BenchmarkError):
    """A step of the demo failed."""
