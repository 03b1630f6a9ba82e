"""One process per mask; a dead one's lock is none."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clients.errors import OutputError
from clients.lock import HeldError, lock_store, wait_for_lock

HOLD = "import sys, time; from pathlib import Path; from clients.lock import lock_store\nwith lock_store(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def test_a_second_holder_is_told_who_the_first_is(tmp_path: Path) -> None:
    store = tmp_path / "s.ome.zarr"
    with lock_store(store):
        with pytest.raises(OutputError, match=rf"found process {os.getpid()} on {socket.gethostname()}"), lock_store(store):
            pass
        with lock_store(tmp_path / "other.ome.zarr"):
            pass
    with lock_store(store):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_s_lock_is_no_obstacle(tmp_path: Path) -> None:
    store = tmp_path / "s.ome.zarr"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(store)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"found process {holder.pid} on"), lock_store(store):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        assert (tmp_path / ".s.ome.zarr.lock").exists()
        with lock_store(store):
            pass


def test_whoever_waits_goes_on_when_the_holder_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.lock._LOOK_S", 0.01)
    store = tmp_path / "s.ome.zarr"
    is_free = threading.Event()

    def wait() -> None:
        wait_for_lock(store, 600)
        is_free.set()

    with lock_store(store):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not is_free.wait(0.1)
    assert is_free.wait(60)
    waiting.join()
    assert list(tmp_path.iterdir()) == []


def test_patience_ends_and_the_lock_says_who_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.lock._LOOK_S", 0.01)
    store = tmp_path / "s.ome.zarr"
    with lock_store(store):
        wait_for_lock(store, 0.05)
        with pytest.raises(HeldError, match=f"found process {os.getpid()}"), lock_store(store):
            pass


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="give another --output"), lock_store(tmp_path / "file" / "s.ome.zarr"):
        pass
