"""A folder anywhere that fsspec reaches, by its URL: s3://, gs://, memory://, file://, … Knows no slide.

Object stores have no rename, no lock and no folders: whoever writes here puts what makes a thing whole last.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from .errors import OutputError

Answer = TypeVar("Answer")
_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0)
_FINAL = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError, NotImplementedError)
_log = logging.getLogger(__name__)


def is_url(text: str) -> bool:
    """Whether it is meant for fsspec; a path of this machine has no "://"."""
    return "://" in text


class StoreFolder:
    """Its methods may be called from any thread; what fails is tried again for a quarter of a minute. All names are paths within the folder.

    Args:
        url: of the folder; how to reach and open the store is fsspec's own configuration and the store's (credentials, FSSPEC_S3_ENDPOINT_URL, …).

    Raises:
        OutputError: the protocol is not known, or the package for it is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            import fsspec  # wanted for URLs alone
            from fsspec.implementations.local import LocalFileSystem

            fs, root = fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise OutputError(
                f"{url}: expected a URL that fsspec can write to: {error}: correct it, or install `histoserve[store]` and what the protocol needs"
            ) from error
        if isinstance(fs, LocalFileSystem):
            fs.auto_mkdir = True
        self._fs: Any = fs
        self._root = str(root).rstrip("/")

    def list_files(self, name: str) -> dict[str, int]:
        """All files below, as a listing of this moment: path within the folder → bytes; empty where nothing is."""
        self._fs.invalidate_cache()
        found: dict[str, dict[str, Any]] = self._again(name, lambda: self._fs.find(self._path(name), detail=True))
        return {str(path)[len(self._root) + 1 :]: int(facts["size"]) for path, facts in found.items()}

    def exists(self, name: str) -> bool:
        """Whether a file of that name is there at this moment."""
        self._fs.invalidate_cache()
        return bool(self._again(name, lambda: self._fs.exists(self._path(name))))

    def put(self, file: Path, name: str) -> None:
        """Bring a file there; an object store shows the old one or the new, never a half."""
        self._again(name, lambda: self._fs.put_file(str(file), self._path(name)))

    def get(self, name: str, file: Path) -> None:
        """Fetch a file; the folders above it are made.

        Raises:
            OutputError: it is not there, or cannot be read.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        self._again(name, lambda: self._fs.get_file(self._path(name), str(file)))

    def remove(self, name: str) -> None:
        """Remove one file."""
        self._again(name, lambda: self._fs.rm_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _again(self, name: str, call: Callable[[], Answer]) -> Answer:
        """What the call gives in the end; each store has errors of its own, so all but the hopeless ones are tried again.

        Raises:
            OutputError: it failed for good.
        """
        for wait_s in (*_WAITS_S, None):
            try:
                return call()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if wait_s is None or isinstance(error, _FINAL):
                    raise OutputError(
                        f"{self.url}/{name}: expected a store that can be read and written to, got {reason}: check the URL and the credentials; "
                        "the same command goes on with what is in --scratch"
                    ) from error
                _log.warning("%s/%s: %s; tried again in %.3g s", self.url, name, reason, wait_s)
                time.sleep(wait_s)
        raise AssertionError("unreachable: the last try returns or raises")
