"""The exceptions of export.

ExportError
├── GraphError        an ONNX graph that breaks the rules every lane relies on
├── ParityError       an exported graph that does not agree with torch, or whose rows depend on their neighbors
├── TilesError        tiles to check with that are missing, too few or too small
└── PublishError      a model repository that cannot take the release
"""

from __future__ import annotations


class ExportError(Exception):
    """The export cannot go on; the message names the object, what was expected, what came and the remedy."""


class GraphError(ExportError):
    """An ONNX graph that breaks the rules every lane relies on."""


class ParityError(ExportError):
    """An exported graph that does not agree with torch, or whose rows depend on their neighbors."""


class TilesError(ExportError):
    """Tiles to check with that are missing, too few or too small."""


class PublishError(ExportError):
    """A model repository that cannot take the release."""
