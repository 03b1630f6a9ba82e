"""The watchdog with a stand-in for Triton that is hard to stop: who dies when, and what is removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import serving.watchdog
from serving.server_log import end_reason
from serving.watchdog import sweep

from .processes import wait_until, with_word

STOP_S = 2.0

# Like a Triton with one stub: a child of its own, and deaf to SIGTERM where asked.
SERVER = """
import signal, subprocess, sys, time
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
time.sleep(float(sys.argv[3]))
"""


def start(folder: Path, manner: str = "kind", lives_s: float = 600, parent: int | None = None) -> subprocess.Popen[bytes]:
    folder.mkdir()
    command = [sys.executable, "-I", "-S", serving.watchdog.__file__, str(folder), f"histoserve_test_{os.getpid()}_"]
    with open(folder.with_suffix(".log"), "wb") as log:
        watchdog = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, start_new_session=True)
    server = [sys.executable, "-I", "-c", SERVER, str(folder), manner, str(lives_s)]
    order = {"command": server, "environment": {}, "working_folder": "/", "parent": parent or os.getpid(), "stop_s": STOP_S}
    assert watchdog.stdin is not None
    watchdog.stdin.write(json.dumps(order).encode() + b"\n")
    watchdog.stdin.flush()
    return watchdog


def finish(watchdog: subprocess.Popen[bytes], folder: Path) -> int:
    """Its exit code, when everything of it is gone."""
    code = watchdog.wait(20)
    assert watchdog.stdin is not None
    watchdog.stdin.close()
    assert wait_until(lambda: not with_word(str(folder)))
    assert not folder.exists()
    return code


def test_stops_the_whole_group_when_the_pipe_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    watchdog = start(folder)
    assert wait_until(lambda: len(with_word(str(folder))) == 3)  # watchdog, server, stub
    assert watchdog.stdin is not None
    watchdog.stdin.close()
    assert finish(watchdog, folder) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_stops_the_whole_group_on_a_signal(tmp_path: Path, signum: signal.Signals) -> None:
    folder = tmp_path / "run"
    watchdog = start(folder)
    assert wait_until(lambda: len(with_word(str(folder))) == 3)
    watchdog.send_signal(signum)
    assert finish(watchdog, folder) == 0


def test_kills_a_server_that_does_not_listen(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    watchdog = start(folder, "deaf")
    assert wait_until(lambda: len(with_word(str(folder))) == 3)
    started_s = time.monotonic()
    watchdog.send_signal(signal.SIGTERM)
    assert finish(watchdog, folder) == 0
    assert STOP_S <= time.monotonic() - started_s < STOP_S + 20  # a busy machine


def test_tells_that_the_server_ended_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert finish(start(folder, lives_s=0.2), folder) == 1
    assert end_reason(folder.with_suffix(".log").read_text()) == "it ended with code 0"


def test_tells_the_signal_that_ended_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    watchdog = start(folder)
    assert wait_until(lambda: len(with_word(str(folder))) == 3)
    (server,) = (pid for pid, line in with_word(str(folder)).items() if " kind " in line)
    os.kill(server, signal.SIGKILL)
    assert finish(watchdog, folder) == 1
    assert end_reason(folder.with_suffix(".log").read_text()) == "it ended by SIGKILL"


def test_does_not_rely_on_the_pipe_alone(tmp_path: Path) -> None:
    """A fork of the parent (a data loader's worker) keeps the pipe open; the parent is another one than was said."""
    folder = tmp_path / "run"
    assert finish(start(folder, parent=1), folder) == 0


def test_a_parent_that_dies_before_its_order_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-I", "-S", serving.watchdog.__file__, str(folder), "histoserve_x_"], stdin=subprocess.DEVNULL, check=True
    )
    assert not folder.exists()


def test_sweeps_its_own_regions_alone(tmp_path: Path) -> None:
    mine, other = (Path(f"/dev/shm/histoserve_test_{os.getpid()}{suffix}") for suffix in ("a_1", "b_1"))
    mine.touch()
    other.touch()
    try:
        sweep(tmp_path / "never made", f"histoserve_test_{os.getpid()}a_")
        assert not mine.exists()
        assert other.exists()
    finally:
        other.unlink()
