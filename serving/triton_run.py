"""One Triton process under its watchdog: start, ready, whole, stop. Knows no restart, and nothing of what is served but the folder."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from .errors import ServingError, StartError
from .exposure import Exposure
from .launch import ADMIN_HEADER, EXIT_TIMEOUT_S, Identity, launch_command, launch_environment
from .modelconfig import Config
from .port import is_listening
from .processes import Process, ended, model_of, server_of, stub_instance, stubs_of
from .server_log import end_reason, failure_reason, is_port_taken
from .tls import check_certificates, own_connection
from .triton_install import SERVING_FOLDER, TritonInstall
from .view import build_view
from .watchdog import sweep

_POLL_S = 0.1
_ANSWER_S = 2.0  # of a ready server to a status question; asked again
_WATCHDOG_STOP_S = EXIT_TIMEOUT_S + 3.0
_STOP_S = _WATCHDOG_STOP_S + 12.0  # its clean-up, on a busy machine


class PortTaken(Exception):
    """Somebody was faster between our look at the port and Triton's bind."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port


class StopWanted(Exception):
    """The start was given up, since nobody wants the server anymore."""


class TritonRun:
    """One server process; made when it is started.

    Args:
        configs: what the view holds from the start.
        secret: opens the admin protocols; the same over the runs of one service.
        log_path: where Triton's log goes; None = into the run's own folder, which ends with it.
        append_log: a restart writes behind what is there.
    """

    def __init__(
        self,
        repository: Path,
        configs: Iterable[Config],
        install: TritonInstall,
        port: int,
        exposure: Exposure,
        secret: str,
        log_path: Path | None,
        append_log: bool,
    ) -> None:
        self.connection = own_connection(exposure, port, check_certificates(exposure))
        self.port = port
        token = secrets.token_hex(8)
        # A new name for each run: a dying server on the port must not pass for this one.
        self.identity = Identity(f"histoserve-{token}", secret, f"histoserve_{token}_")
        self.folder = Path(tempfile.mkdtemp(prefix="histoserve-triton-"))
        self._own_host = exposure.own_host
        self._repository = repository
        self._asked_log_path = log_path
        self._server: Process | None = None  # seen once it is ready
        self._stubs: dict[Process, str] = {}
        try:
            self.view = build_view(self.folder, repository, configs, install)
            self._start(launch_command(install, self.view, self.identity, port, exposure), launch_environment(install), append_log)
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    @property
    def admin_headers(self) -> dict[str, str]:
        """gRPC metadata that opens the restricted protocols."""
        return {ADMIN_HEADER: self.identity.secret}

    def client(self) -> Any:
        """A new gRPC client of tritonclient; a context manager."""
        return grpcclient.InferenceServerClient(**self.connection)

    def wait_ready(self, timeout_s: float, give_up: threading.Event) -> None:
        """Return when our server, not another on the port, says that it is ready.

        Raises:
            StartError: it ended, or took too long.
            PortTaken: it ended since it could not bind.
            StopWanted: `give_up` was set meanwhile.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._is_ready():
            if self.process.poll() is not None:
                if is_port_taken(self._log_text()):
                    raise PortTaken(self.port)
                raise self.failure("Triton did not start")
            if time.monotonic() > deadline_s:
                raise self.failure(f"Triton was not ready after {timeout_s:.0f} s")
            if give_up.wait(_POLL_S):
                raise StopWanted
        self._server = server_of(self.process.pid)

    def expect_stubs(self, models: Iterable[str]) -> None:
        """Watch the stubs of these models and no other: call it when they are loaded, and before others are unloaded."""
        wanted = set(models)
        living = () if self._server is None else stubs_of(self._server.pid)
        # Where Triton loads a model anew, the instance has two stubs for a moment: the older one is about to end.
        newest = {stub_instance(stub): stub for stub in sorted(living, key=lambda stub: stub.started)}
        self._stubs = {stub: model for instance, stub in newest.items() if (model := model_of(instance)) in wanted}

    def fault(self) -> str | None:
        """Why this server can no longer answer everything, in words; None while its processes are whole. It says nothing of its answers."""
        if self.process.poll() is not None:
            return f"the server process ended: {end_reason(self._log_text())}"
        lost = {self._stubs[stub] for stub in ended(tuple(self._stubs))}
        if not lost or (self._server is not None and ended((self._server,))):
            return None  # the whole server is about to be gone: the watchdog tells how in a moment
        return f"the python stub of {', '.join(sorted(lost))} ended; Triton does not start it again"

    def failure(self, what: str) -> StartError:
        """The error with Triton's own reason; keeps a temporary log where it can be read when the folder is gone."""
        log = self._log_text().replace(str(self.view.models), str(self._repository))  # the view is gone when this is read
        kept = self._asked_log_path
        if kept is None:
            kept = Path(tempfile.gettempdir()) / f"{self.identity.server_id}.log"
            kept.write_text(log, encoding="utf-8")
        return StartError(f"{what}: {failure_reason(log)} (its log: {kept})")

    def stop(self) -> None:
        """Refuse new requests, answer those in flight, end, and remove what the run made. One without all its stubs is not waited for.

        Raises:
            ServingError: it does not end.
        """
        if self.fault() is not None:
            self._kill()
        self._pipe.close()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the kernel then tells Triton to end
            raise ServingError(f"Triton did not stop within {_STOP_S:.0f} s; its files are in {self.folder}") from None
        finally:
            self._log.close()
        sweep(self.folder, self.identity.shm_prefix)  # the watchdog did, unless it was killed itself

    def kill(self) -> None:
        """End a server that does not answer anymore, without the wait for what is in flight."""
        self._kill()
        self.stop()

    def _kill(self) -> None:
        """It would wait for its dead stub until --exit-timeout-secs."""
        server = self._server or server_of(self.process.pid)
        if server is not None and not ended((server,)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGKILL)

    def _start(self, command: list[str], environment: dict[str, str], append_log: bool) -> None:
        log_path = self._asked_log_path or self.folder / "triton.log"
        with _open_log(log_path, append_log) as log:
            self._log = open(log_path, "rb")  # noqa: SIM115 (read after the watchdog removed the folder)
            self._log_start = self._log.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SERVING_FOLDER / "watchdog.py"), str(self.folder), self.identity.shm_prefix],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                umask=0o077,
            )
        order = {
            "command": command,
            "environment": environment,
            "working_folder": str(self.view.working_folder),
            "parent": os.getpid(),
            "stop_s": _WATCHDOG_STOP_S,
        }
        self._pipe.write(json.dumps(order).encode() + b"\n")
        self._pipe.flush()  # the pipe then stays open, silent, for as long as the server is wanted

    @property
    def _pipe(self) -> IO[bytes]:
        assert self.process.stdin is not None  # Popen's type does not know that we asked for a pipe
        return self.process.stdin

    def _is_ready(self) -> bool:
        if not is_listening(self.port, self._own_host):
            return False
        with self.client() as client:
            try:
                ours = client.get_server_metadata(client_timeout=_ANSWER_S).name == self.identity.server_id
                return bool(ours and client.is_server_ready(client_timeout=_ANSWER_S))
            except InferenceServerException:
                return False  # another program's port, or ours before it serves; the loop's own deadline decides

    def _log_text(self) -> str:
        self._log.seek(self._log_start)
        return self._log.read().decode("utf-8", errors="replace")


def _open_log(path: Path, append: bool) -> IO[bytes]:
    try:
        return open(path, "ab" if append else "wb")
    except OSError as error:
        raise StartError(f"{path}: Triton's log cannot be written there ({error.strerror}): choose another place for it") from error
