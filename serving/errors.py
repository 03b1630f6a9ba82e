"""What can go wrong between a model repository and a ready server. Knows no Triton.

ServingError
├── ConfigError          a config.pbtxt that cannot be written or read
├── RepositoryError      the model repository lacks something, or its parts do not fit together
├── InstallationError    .triton (the server side's environment) is missing or unfit
├── PortError            the wanted port is taken
├── ExposureError        the server must not be opened like that
├── StartError           Triton did not become ready; the message carries its own log lines
├── StatusError          a running server's state cannot be asked for or told
├── PageError            the page for people cannot be served
└── CanaryError          the server is ready and answers wrong values
"""

from __future__ import annotations


class ServingError(Exception):
    """Base of this folder's errors."""


class ConfigError(ServingError):
    """A `config.pbtxt` that cannot be written or read."""


class RepositoryError(ServingError):
    """The model repository lacks something, or its parts do not fit together."""


class InstallationError(ServingError):
    """The Triton installation is missing or unfit."""


class PortError(ServingError):
    """The wanted port is taken."""


class ExposureError(ServingError):
    """The server must not be opened like that, or cannot be: a version with published holes, a certificate that does not fit."""


class StartError(ServingError):
    """Triton did not become ready, or stopped."""


class StatusError(ServingError):
    """The state of a running server cannot be asked for, or not be told."""


class PageError(ServingError):
    """The page for people cannot be served: the message says what it lacks."""


class CanaryError(ServingError):
    """The server answers, but not with the values the release was exported with."""
