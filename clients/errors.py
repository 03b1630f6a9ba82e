"""What can go wrong between a slide and its mask. Knows no library.

ClientError
├── SlideError     a slide that cannot be opened or read
├── ScaleError     a slide whose micrometers per pixel are missing or absurd
├── ServerError    a server that does not answer, lacks the model, or fails on tiles
│   └── AwayError  a server that does not answer
├── HeaderFileError  a file of headers that cannot be read (also a ValueError)
├── RegionError    a tissue mask or a region of interest that does not fit the slide
└── OutputError    a mask that cannot be written or read
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of this folder's errors; the message names the object, what was expected, what came and the remedy."""


class SlideError(ClientError):
    """A slide that cannot be opened or read."""


class ScaleError(ClientError):
    """A slide whose micrometers per pixel are missing or absurd."""


class ServerError(ClientError):
    """A server that does not answer, lacks the model, or fails on tiles."""


class AwayError(ServerError):
    """A server that does not answer: another one, or the same one later, may."""


class HeaderFileError(ClientError, ValueError):
    """A file of headers that cannot be read; as the value of a flag, wrong usage."""


class RegionError(ClientError):
    """A tissue mask or a region of interest that cannot be read, or does not fit the slide."""


class OutputError(ClientError):
    """A mask that cannot be written or read."""
