"""`histoserve serve` as a process of its own, with its lines readable while it runs."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.port import free_port
from serving.processes import Process, model_of, server_of, stub_instance, stubs_of
from serving.triton_install import SERVING_FOLDER

from .processes import with_word

SERVE = "import sys; from serving.cli import main; sys.exit(main(sys.argv[1:]))"


class ServeProcess:
    """A running command; `lines` are its standard output and error in one."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self.lines: list[str] = []
        self._queue: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip("\n"))

    def wait_for(self, words: str, timeout_s: float = 90.0) -> str:
        """The next line that holds the words."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                line = self._queue.get(timeout=max(0.01, deadline_s - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no line with {words!r} among {self.lines}") from None
            self.lines.append(line)
            if words in line:
                return line

    @property
    def triton(self) -> Process:
        """The tritonserver of now."""
        watchdogs = [pid for pid, line in with_word("watchdog.py").items() if _parent(pid) == self.process.pid]
        found = [server for watchdog in watchdogs if (server := server_of(watchdog)) is not None]
        assert len(found) == 1
        return found[0]

    def stub(self, model: str) -> Process:
        (stub,) = (stub for stub in stubs_of(self.triton.pid) if model_of(stub_instance(stub)) == model)
        return stub


@contextmanager
def serving(repository: Path, *arguments: str, runtime: Path | None = None) -> Iterator[ServeProcess]:
    """Ready inside the block; interrupted after it where it still runs."""
    port = free_port()
    command = [sys.executable, "-c", SERVE, "--repository", str(repository), "--port", str(port), *arguments]
    environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime or repository.parent)}
    with subprocess.Popen(
        command, cwd=SERVING_FOLDER.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            started = ServeProcess(process, port)
            started.wait_for("ready at")
            yield started
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def _parent(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[1])
