"""One process per mask: a lock file that the kernel releases when its holder ends, however it ends. Knows no slide."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

_LOOK_S = 0.5  # between two looks at a lock that somebody holds


class HeldError(OutputError):
    """Another process writes the store."""


@contextmanager
def lock_store(store: Path) -> Iterator[None]:
    """Hold `.S.ome.zarr.lock` beside a store. A file that a killed process left behind is no obstacle: only a living holder locks it.

    Raises:
        HeldError: another process holds it; the message says which.
        OutputError: the folder cannot be written.
    """
    path = store.with_name(f".{store.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path, store)
    except OSError as error:
        raise OutputError(f"{store}: expected a folder that can be written to: {error}: give another --output") from error
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        try:
            path.unlink(missing_ok=True)  # while it is locked: nobody else can have made it anew
        finally:
            os.close(descriptor)


def wait_for_lock(store: Path, patience_s: float) -> None:
    """Return when no other process writes the store, or when the patience ends: whoever then locks it learns who does.

    Raises:
        OutputError: the folder cannot be written.
    """
    end_s = time.monotonic() + patience_s
    while time.monotonic() < end_s:
        try:
            with lock_store(store):
                return
        except HeldError:
            time.sleep(_LOOK_S)


def _lock(path: Path, store: Path) -> int:
    """The descriptor of the locked file."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still_there(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise HeldError(f"{store}: expected no other process that writes it, found {holder}: wait for it, or stop it") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its last holder removed it between our open and our lock


def _is_still_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {told['pid']} on {told['host']}"
    except (ValueError, KeyError, TypeError):
        return "one that has just begun"  # locked, its name not yet written
