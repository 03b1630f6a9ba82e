"""What an interrupted slide needs to go on: one file beside the store, replaced whole after each strip. Knows no zarr and no model.

    .S.ome.zarr.state    a line of JSON (fingerprint, files), the arrays by name, then the SHA-256 of all before it

The file is on disk before the strip counts as done, and the strip's own files before it: whatever the moment of a kill, the newest state
is whole and what it says is finished is finished.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from .errors import OutputError
from .fingerprint import Fingerprint

_FORMAT = "histoserve state 1"
_DIGEST_BYTES = 32
_BLOCK_BYTES = 1 << 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SavedState:
    """The newest state of a slide.

    Attributes:
        arrays: as they were given to `save`.
        files: of the unfinished store that belong to finished strips: path within it → bytes.
    """

    arrays: Mapping[str, npt.NDArray[Any]]
    files: Mapping[str, int]


class Journal:
    """The state of one store's slide."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.path = store.with_name(f".{store.name}.state")
        self._partial = store.with_name(f".{store.name}.state.partial")

    def load(self, fingerprint: Fingerprint, present: Mapping[str, int]) -> SavedState | None:
        """The state to go on from, None where there is none that fits; then a warning says why.

        Args:
            present: the files that the unfinished store has: path within it → bytes.
        """
        try:
            header, arrays = self._read()
        except FileNotFoundError:
            return None
        except (OSError, _DamagedError) as damage:
            self._warn(f"its state is damaged ({damage})")
            return None
        changes = fingerprint.changes(header["fingerprint"])
        if changes:
            self._warn(f"since then changed: {', '.join(changes)}")
            return None
        files: dict[str, int] = header["files"]
        lost = sorted(name for name, size in files.items() if present.get(name) != size)
        if lost:
            self._warn(f"{len(lost)} of its files are gone or of another size, e.g. {lost[0]}")
            return None
        return SavedState(arrays, files)

    def save(self, fingerprint: Fingerprint, arrays: Mapping[str, npt.NDArray[Any]], files: Mapping[str, int]) -> None:
        """Replace the state; on disk when this returns.

        Raises:
            OutputError: it cannot be written.
        """
        header = {"format": _FORMAT, "fingerprint": dict(fingerprint.parts), "arrays": list(arrays), "files": dict(files)}
        try:
            with open(self._partial, "wb") as file:
                out = _Hashed(file)
                out.write(json.dumps(header).encode() + b"\n")
                for array in arrays.values():
                    np.lib.format.write_array(out, array, allow_pickle=False)
                file.write(out.digest())
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._partial, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise OutputError(f"{self.path}: expected room for the slide's state: {error.strerror}: free some, then go on") from error

    def discard(self) -> None:
        """Forget the state, and what a kill left of the next one."""
        self.path.unlink(missing_ok=True)
        self._partial.unlink(missing_ok=True)

    def _read(self) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
        with open(self.path, "rb") as file:
            _check_digest(file)
            file.seek(0)
            header = json.loads(file.readline())
            if header["format"] != _FORMAT:
                raise _DamagedError(f"expected {_FORMAT!r}, got {header['format']!r}")
            arrays = {name: np.lib.format.read_array(file, allow_pickle=False) for name in header["arrays"]}
        return header, arrays

    def _warn(self, why: str) -> None:
        _log.warning("%s: the work of an interrupted run is discarded: %s", self.store, why)


def sync_file(path: Path) -> None:
    """Have a file's content on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Have a folder's names on disk."""
    sync_file(path)


class _DamagedError(Exception):
    """Not what `save` wrote."""


class _Hashed:
    """A file that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def digest(self) -> bytes:
        return self._hash.digest()


def _check_digest(file: IO[bytes]) -> None:
    left = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
    if left < 0:
        raise _DamagedError("it is too short")
    digest = hashlib.sha256()
    while left:
        block = file.read(min(left, _BLOCK_BYTES))
        if not block:
            raise _DamagedError("it became shorter while it was read")
        digest.update(block)
        left -= len(block)
    if file.read() != digest.digest():
        raise _DamagedError("its checksum differs")
