"""Tiles in memory that a server of this machine maps too, so that requests carry none. Knows /dev/shm and how Triton is told; no model, no retries."""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

SHM = Path("/dev/shm")
PREFIX = "histoserve-tiles-"
STALE_S = 600.0  # a region has a name only until the server has mapped it, which takes it milliseconds, and at most `_ANSWER_S`
_ANSWER_S = 10.0
_UNKNOWN = "Unable to find shared memory region"  # Triton 2.51, of a region that it was told of before it was started again
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """Room for the tiles of one request, mapped by the server under `name`."""

    name: str
    memory: mmap.mmap

    def hold(self, tiles: npt.NDArray[np.uint8], given: grpcclient.InferInput) -> None:
        """Copy tiles into it, and have a request's input name them. The request must be answered before the next call."""
        np.copyto(np.ndarray(tiles.shape, np.uint8, buffer=self.memory), tiles)
        given.set_shared_memory(self.name, tiles.nbytes)


class SharedTiles:
    """Slots, as many as there are requests on the way at a time; made when they are first wanted. Its methods may be called from any thread.

    A slot's file in /dev/shm is gone as soon as the server has mapped it, so that nothing is left of a client that is killed. Its pages are
    reserved when it is made: where there is no room, that is an error here and not a bus error at the first tile.

    Where no slot can be made, it says why on the log, once, and lends none anymore: the caller puts tiles into its messages.

    Args:
        client: of a server that runs on this machine as this user.
        admin_headers: gRPC metadata that opens the server's shared-memory protocol.
        address: of the server, for the log.
    """

    def __init__(self, client: grpcclient.InferenceServerClient, admin_headers: Mapping[str, str], address: str) -> None:
        self._client, self._headers, self._address = client, dict(admin_headers), address
        self._lock = threading.Lock()
        self._slots: dict[str, Slot] = {}  # all that the server knows
        self._free: list[Slot] = []
        self._is_off = False

    def lend(self, byte_count: int) -> Slot | None:
        """A slot with room for so many bytes, until it is given back; None where tiles must travel in messages."""
        with self._lock:
            fitting = next((slot for slot in self._free if len(slot.memory) >= byte_count), None)
            if fitting is not None:
                self._free.remove(fitting)
                return fitting
            return None if self._is_off else self._make(byte_count)

    def give_back(self, slot: Slot) -> None:
        """Its request is answered, or failed."""
        with self._lock:
            if slot.name in self._slots:
                self._free.append(slot)

    def is_lost(self, reason: str) -> bool:
        """Whether a request failed because the server was started again and knows no slot of before; if so they are forgotten, and new ones made."""
        if _UNKNOWN not in reason or PREFIX not in reason:
            return False
        with self._lock:
            if any(name in reason for name in self._slots):  # else another request of the same time told so already
                self._slots.clear()
                self._free.clear()
        return True

    def close(self) -> None:
        """Have the server unmap the slots, but those that it may still read: these it loses when it ends."""
        with self._lock:
            self._is_off = True
            for slot in self._free:
                with contextlib.suppress(InferenceServerException):  # a server that is gone has unmapped them
                    self._client.unregister_system_shared_memory(slot.name, headers=self._headers, client_timeout=_ANSWER_S)
            self._slots.clear()
            self._free.clear()

    def _make(self, byte_count: int) -> Slot | None:
        try:
            if not self._slots:
                remove_stale()
            with _named_memory(byte_count) as slot:
                self._client.register_system_shared_memory(
                    slot.name, f"/{slot.name}", byte_count, headers=self._headers, client_timeout=_ANSWER_S
                )
        except (OSError, InferenceServerException) as error:
            _log.warning(
                "%s: no shared memory for %.3g MB of tiles (%s): they travel in messages", self._address, byte_count / 2**20, error
            )
            self._is_off = True
            return None
        if not self._slots:
            _log.info("%s: tiles travel in shared memory, %.3g MB a request", self._address, byte_count / 2**20)
        self._slots[slot.name] = slot
        return slot


@contextlib.contextmanager
def _named_memory(byte_count: int) -> Iterator[Slot]:
    """Memory that whoever is told its name can map within the block.

    Raises:
        OSError: no /dev/shm, or no room in it.
    """
    name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
    descriptor = os.open(SHM / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, byte_count)
        yield Slot(name, mmap.mmap(descriptor, byte_count))
    finally:
        os.close(descriptor)
        (SHM / name).unlink(missing_ok=True)


def remove_stale() -> None:
    """Files of clients that were killed in the moment when they had one."""
    for path in SHM.glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, PermissionError):  # another client was faster; another user's
            if time.time() - path.stat().st_mtime > STALE_S:
                path.unlink()
