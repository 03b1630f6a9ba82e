"""A file's pages in the kernel's page cache: dropped, and counted (Linux). Knows no slide."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np


def drop_pages(path: Path) -> float:
    """Ask the kernel to forget the file's pages; the share that it kept, 0…1 (those that another process maps, or all on some file systems)."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # it forgets no page that is not on disk
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_share(path)


def load_pages(path: Path) -> None:
    """Read the file once."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 22):
            pass


def cached_share(path: Path) -> float:
    """Share of the file's pages that are in memory (mincore), 0…1; an empty file has none.

    Raises:
        OSError: the kernel does not say.
    """
    size = path.stat().st_size
    if not size:
        return 0.0
    libc = ctypes.CDLL(None, use_errno=True)
    # A private mapping that may be written is what ctypes can take the address of; nothing is written.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as pages:
        first = (ctypes.c_char * size).from_buffer(pages)
        present = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(size), present)
        del first
        if failed:
            raise OSError(ctypes.get_errno(), f"{path}: mincore: {os.strerror(ctypes.get_errno())}")
    return float((np.frombuffer(bytes(present), dtype=np.uint8) & 1).mean())
