"""Runs one Triton and outlives the process that wanted it, so that nothing is left behind when that is killed. Standard library only; a script.

    python -I -S watchdog.py FOLDER SHM_PREFIX   < pipe of the parent: one line of JSON, the order; then silence

Triton and its stubs get a process group of their own. The group is stopped when the pipe ends or the parent is another
process than before (a fork of the parent may hold the pipe open); then its folder and shared memory are removed.
PR_SET_PDEATHSIG is no substitute: it follows the parent's thread and does not reach the stubs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

POLL_S = 0.5
LAST_LINE = "histoserve: tritonserver ended"  # of the log, where it ended by itself
_SHM = Path("/dev/shm")
_PR_SET_PDEATHSIG = 1

_asked_to_stop: list[int] = []  # signals; a handler must not do more than note them


def watch(server: subprocess.Popen[bytes], parent: int) -> None:
    """Return when the server ended or nobody wants it anymore."""
    while server.poll() is None and not _asked_to_stop and os.getppid() == parent:
        readable, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if readable and not os.read(sys.stdin.fileno(), 1):
            return


def stop(server: subprocess.Popen[bytes], stop_s: float) -> None:
    """End the whole group: kindly, then not. Triton answers what is in flight and refuses what is new meanwhile."""
    if server.poll() is None:
        server.terminate()
        deadline_s = time.monotonic() + stop_s
        while server.poll() is None and time.monotonic() < deadline_s:
            time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):  # the group is empty already: what we want
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def sweep(folder: Path, shm_prefix: str) -> None:
    """Remove what the server leaves: a stub that was killed leaks its region."""
    for region in _SHM.glob(f"{shm_prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def die_with_watchdog() -> None:
    """In the server, before it starts: covers a kill -9 of the watchdog itself. The watchdog has one thread, so the thread rule does not bite."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def end_of(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode >= 0:
        return f"with code {returncode}"
    try:
        return f"by {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal has no name
        return f"by signal {-returncode}"


def note_signal(signum: int, frame: FrameType | None) -> None:
    _asked_to_stop.append(signum)


def main(folder: Path, shm_prefix: str) -> int:
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, note_signal)
    try:
        order = json.loads(sys.stdin.buffer.readline() or "null")
        if order is None:
            return 0  # the parent ended before it said what it wants
        server = subprocess.Popen(
            order["command"],
            env=order["environment"],
            cwd=order["working_folder"],
            stdin=subprocess.DEVNULL,
            process_group=0,
            preexec_fn=die_with_watchdog,  # noqa: PLW1509 (the watchdog has one thread)
        )
        watch(server, order["parent"])
        ended = server.poll()
        stop(server, order["stop_s"])
        if ended is not None:
            print(f"{LAST_LINE} {end_of(ended)}", flush=True)  # standard output is Triton's log
    finally:
        sweep(folder, shm_prefix)
    return 0 if ended is None else 1  # 1: Triton ended by itself


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
