"""Starts the Triton of the PyPI wheel on part of a model repository, checks its answers and stops it. Knows no network beyond loopback."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from .canary import canary_models, run_canary
from .check import check_repository
from .errors import ServingError, StartError
from .exposure import GRPC, Exposure, check_version
from .launch import ADMIN_HEADER, Identity, launch_command, launch_environment, require_shared_memory
from .modelconfig import Config
from .port import free_port, is_listening, port_in_use, require_free
from .server_log import failure_reason, is_port_taken
from .tls import check_certificates, own_connection
from .triton_binary import probe_binary
from .triton_install import SERVING_FOLDER, TritonInstall, find_install
from .view import build_view
from .watchdog import sweep

READY_TIMEOUT_S = 300.0  # large networks are optimized at load
_POLL_S = 0.1
_ANSWER_S = 2.0  # of a ready server to a status question; asked again
_STOP_S = 20.0  # the watchdog's own 8 s and its clean-up, on a busy machine
_PORT_TRIES = 3


class EmbeddedTriton:
    """A context manager: ready and checked inside the block, gone after it, and gone when this process is killed.

        with EmbeddedTriton(Path("model_repository"), ["demo_segment"]) as server:
            TileClient(server.address)

    Args:
        models: served with all they need: the steps of ensembles, the release and the slide model that a contract names.
        port: None = a free one.
        log_path: where Triton's log goes; None = a temporary file, kept only where the start fails.
        exposure: what it opens; None = gRPC on the loopback interface alone.
    """

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        *,
        port: int | None = None,
        log_path: Path | None = None,
        ready_timeout_s: float = READY_TIMEOUT_S,
        exposure: Exposure | None = None,
    ) -> None:
        self.repository = repository
        self.models = tuple(models)
        self._wanted_port = port
        self._log_path = log_path
        self._ready_timeout_s = ready_timeout_s
        self.exposure = exposure or Exposure()
        self._run: _Run | None = None

    @property
    def address(self) -> str:
        """Of gRPC, e.g. "127.0.0.1:8001"."""
        return f"{self.exposure.own_host}:{self._running().port}"

    @property
    def admin_headers(self) -> dict[str, str]:
        """gRPC metadata that opens the statistics of this server (and its other restricted protocols)."""
        return {ADMIN_HEADER: self._running().identity.secret}

    @property
    def pid(self) -> int:
        """Of the watchdog, the parent of Triton."""
        return self._running().process.pid

    def require_running(self) -> None:
        """Whether the server process is there; it says nothing about its answers.

        Raises:
            StartError: it ended by itself; the message carries its last words.
        """
        run = self._running()
        if run.process.poll() is not None:
            raise run.failure("Triton ended by itself")

    def __enter__(self) -> Self:
        configs = check_repository(self.repository, self.models)
        install = find_install()
        check_version(self.exposure, probe_binary(install).version)
        require_shared_memory(configs.values())
        for tries_left in reversed(range(_PORT_TRIES)):
            try:
                self._start(configs, install)
                return self
            except _PortTaken as taken:
                if self._wanted_port is not None or not tries_left:
                    raise port_in_use(taken.port, self.exposure.address) from None
        raise AssertionError("unreachable: the last try returns or raises")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server and wait until it is gone; a second call does nothing."""
        if self._run is not None:
            self._run.stop()
            self._run = None

    def _start(self, configs: dict[str, Config], install: TritonInstall) -> None:
        port = free_port() if self._wanted_port is None else self._wanted_port
        for purpose, (host, wanted) in self.exposure.ports(port).items():
            if purpose != GRPC or self._wanted_port is not None:
                require_free(wanted, host)
        self._run = _Run(self.repository, configs, install, port, self._log_path, self.exposure)
        try:
            self._run.wait_ready(self._ready_timeout_s)
            with grpcclient.InferenceServerClient(**self._run.connection) as client:
                for model in canary_models(configs.values()):
                    run_canary(client, self.repository, model)
        except BaseException:
            self.stop()
            raise

    def _running(self) -> _Run:
        if self._run is None:
            raise ServingError("the embedded Triton is not running: use it inside its with block")
        return self._run


class _PortTaken(Exception):
    """Somebody was faster between our look at the port and Triton's bind."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port


class _Run:
    """One server process under its watchdog."""

    def __init__(
        self,
        repository: Path,
        configs: dict[str, Config],
        install: TritonInstall,
        port: int,
        log_path: Path | None,
        exposure: Exposure,
    ) -> None:
        self.connection = own_connection(exposure, port, check_certificates(exposure))
        self._own_host = exposure.own_host
        token = secrets.token_hex(8)
        self.port = port
        self.identity = Identity(f"histoserve-{token}", secrets.token_urlsafe(24), f"histoserve_{token}_")
        self.folder = Path(tempfile.mkdtemp(prefix="histoserve-triton-"))
        try:
            self._repository = repository
            self._view = build_view(self.folder, repository, configs.values(), install)
            self._asked_log_path = log_path
            log_path = log_path or self.folder / "triton.log"
            with _create_log(log_path) as log:
                self._log = open(log_path, "rb")  # noqa: SIM115 (read after the watchdog removed the folder)
                self.process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(SERVING_FOLDER / "watchdog.py"), str(self.folder), self.identity.shm_prefix],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    umask=0o077,
                )
            self._give_order(
                launch_command(install, self._view, self.identity, port, exposure), launch_environment(install), self._view.working_folder
            )
        except BaseException:
            shutil.rmtree(self.folder)
            raise

    def _give_order(self, command: list[str], environment: dict[str, str], working_folder: Path) -> None:
        """Tell the watchdog what to run; the pipe then stays open, silent, for as long as the server is wanted."""
        order = {"command": command, "environment": environment, "working_folder": str(working_folder), "parent": os.getpid()}
        self._pipe.write(json.dumps(order).encode() + b"\n")
        self._pipe.flush()

    @property
    def _pipe(self) -> IO[bytes]:
        assert self.process.stdin is not None  # Popen's type does not know that we asked for a pipe
        return self.process.stdin

    def wait_ready(self, timeout_s: float) -> None:
        """Return when our server, not another on the port, says that it is ready.

        Raises:
            StartError: it ended, or took too long.
            _PortTaken: it ended since it could not bind.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._is_ready():
            if self.process.poll() is not None:
                if is_port_taken(self._log_text()):
                    raise _PortTaken(self.port)
                raise self.failure("Triton did not start")
            if time.monotonic() > deadline_s:
                raise self.failure(f"Triton was not ready after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def _is_ready(self) -> bool:
        if not is_listening(self.port, self._own_host):
            return False
        with grpcclient.InferenceServerClient(**self.connection) as client:
            try:
                ours = client.get_server_metadata(client_timeout=_ANSWER_S).name == self.identity.server_id
                return bool(ours and client.is_server_ready(client_timeout=_ANSWER_S))
            except InferenceServerException:
                return False  # another program's port, or ours before it serves; the loop's own deadline decides

    def failure(self, what: str) -> StartError:
        """The error with Triton's own reason; keeps a temporary log where it can be read when the folder is gone."""
        log = self._log_text().replace(str(self._view.models), str(self._repository))  # the view is gone when this is read
        kept = self._asked_log_path
        if kept is None:
            kept = Path(tempfile.gettempdir()) / f"{self.identity.server_id}.log"
            kept.write_text(log, encoding="utf-8")
        return StartError(f"{what}: {failure_reason(log)} (its log: {kept})")

    def _log_text(self) -> str:
        self._log.seek(0)
        return self._log.read().decode("utf-8", errors="replace")

    def stop(self) -> None:
        self._pipe.close()
        try:
            self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()  # the kernel then tells Triton to end
            raise ServingError(f"Triton did not stop within {_STOP_S:.0f} s; its files are in {self.folder}") from None
        finally:
            self._log.close()
        sweep(self.folder, self.identity.shm_prefix)  # the watchdog did, unless it was killed itself


def _create_log(path: Path) -> IO[bytes]:
    try:
        return open(path, "wb")
    except OSError as error:
        raise StartError(f"{path}: Triton's log cannot be written there ({error.strerror}): choose another place for it") from error
