"""The exceptions of training.

TrainingError
├── EncoderError      an encoder that timm does not know, or weights that do not fit it
├── DataError         a data set that cannot be used as it is
├── RecipeError       a recipe or option that makes no sense
└── CheckpointError   a checkpoint that is missing, unreadable or of another version
"""

from __future__ import annotations


class TrainingError(Exception):
    """Training cannot go on; the message names the object, what was expected, what came and the remedy."""


class EncoderError(TrainingError):
    """An encoder that timm does not know, or weights that do not fit it."""


class DataError(TrainingError):
    """A data set that cannot be used as it is."""


class RecipeError(TrainingError):
    """A recipe or option that makes no sense."""


class CheckpointError(TrainingError):
    """A checkpoint that is missing, unreadable or of another version."""
