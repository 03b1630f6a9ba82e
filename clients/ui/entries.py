"""Which models there are to ask a server for: those that were named, or those of a model repository as it is now. Knows no server."""

from __future__ import annotations

import logging
from pathlib import Path

from serving.check import entry_names
from serving.errors import ServingError

from .errors import AskedError

_log = logging.getLogger(__name__)


class RepositoryEntries:
    """The callers' entries of a model repository at every call; those of the call before where it cannot be read, as a server that follows it
    keeps what it has. Thread-safe."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._known: tuple[str, ...] = ()
        self._fault = ""

    def __call__(self) -> tuple[str, ...]:
        """
        Raises:
            AskedError: it has none, or cannot be read and never could.
        """
        try:
            self._known, self._fault = entry_names(self._repository), ""
        except (ServingError, OSError) as error:
            if not self._known:
                raise AskedError(str(error)) from error
            if str(error) != self._fault:  # once, not at every question
                _log.warning("the list of models stays as it was: %s", error)
            self._fault = str(error)
        return self._known
