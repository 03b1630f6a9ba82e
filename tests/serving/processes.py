"""Looks at the processes of this machine by their command lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def command_lines() -> dict[int, str]:
    """Living processes of whoever; one that ends meanwhile is left out."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                raw = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            found[int(folder.name)] = raw.replace(b"\0", b" ").decode(errors="replace")
    return found


def with_word(word: str) -> dict[int, str]:
    return {pid: line for pid, line in command_lines().items() if word in line and pid != os.getpid()}


def wait_until(fact: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True
