"""The exceptions of export.

ExportError
├── GraphError        an ONNX graph that breaks the rules every lane relies on
├── ParityError       an exported graph that does not agree with torch, or whose rows depend on their neighbors
├── EngineError       a TensorRT engine that cannot be built here, or runs in other types than its graph asked for
├── TilesError        tiles to check with that are missing, too few or too small
└── PublishError      a model repository that cannot take the release
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .figures import ParityReport


class ExportError(Exception):
    """The export cannot go on; the message names the object, what was expected, what came and the remedy."""


class GraphError(ExportError):
    """An ONNX graph that breaks the rules every lane relies on."""


class ParityError(ExportError):
    """An exported graph that does not agree with torch, or whose rows depend on their neighbors.

    Attributes:
        reports: every figure that was measured, with the worst tiles; empty where the fault was found without measuring.
    """

    def __init__(self, message: str, reports: Sequence[ParityReport] = ()) -> None:
        super().__init__(message)
        self.reports = tuple(reports)


class EngineError(ExportError):
    """A TensorRT engine that cannot be built here, or runs in other types than its graph asked for."""


class TilesError(ExportError):
    """Tiles to check with that are missing, too few or too small."""


class PublishError(ExportError):
    """A model repository that cannot take the release."""
