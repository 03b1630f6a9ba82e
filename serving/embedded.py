"""The Triton that histoserve starts itself: ready and checked inside a with block, kept up there, gone after it. Knows the order of these things."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import ServingError
from .exposure import Exposure
from .launch import ADMIN_HEADER
from .reload import GRACE_S
from .restarts import Supervision
from .service import TritonService
from .status import Snapshot
from .supervisor import Restart, Supervisor

READY_TIMEOUT_S = 300.0  # large networks are optimized at load


class EmbeddedTriton:
    """A context manager: ready and checked inside the block, restarted when it or a stub of it dies, gone after the block, and gone
    when this process is killed.

        with EmbeddedTriton(Path("model_repository"), ["demo_segment"]) as server:
            TileClient(server.address)

    Args:
        models: served with all they need: the steps of ensembles, the release and the slide model that a contract names. None = every
            entry of the repository; with `exposure.reloadable` also those that are published later, until they are removed.
        port: None = a free one; it stays the same over restarts.
        log_path: where Triton's log goes; None = a temporary file, kept only where the start fails.
        exposure: what it opens; None = gRPC on the loopback interface alone.
        supervision: when it is restarted; None = as `Supervision` stands.
        grace_s: with `exposure.reloadable`: how long an old release stays loaded after its last request.
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
        supervision: Supervision | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.repository = repository
        self.models = tuple(models)
        self.exposure = exposure or Exposure()
        self._supervision = supervision or Supervision()
        self._wanted_port = port
        self._log_path = log_path
        self._ready_timeout_s = ready_timeout_s
        self._grace_s = grace_s
        self._service: TritonService | None = None
        self._supervisor: Supervisor | None = None

    @property
    def address(self) -> str:
        """Of gRPC, e.g. "127.0.0.1:8001"."""
        return f"{self.exposure.own_host}:{self.service.port}"

    @property
    def admin_headers(self) -> dict[str, str]:
        """gRPC metadata that opens the statistics of this server (and its other restricted protocols)."""
        return {ADMIN_HEADER: self.service.secret}

    @property
    def pid(self) -> int:
        """Of the watchdog, the parent of the Triton of now."""
        return self.service.run.process.pid

    @property
    def service(self) -> TritonService:
        """What is served.

        Raises:
            ServingError: outside the block.
        """
        if self._service is None:
            raise ServingError("the embedded Triton is not running: use it inside its with block")
        return self._service

    @property
    def restarts(self) -> tuple[Restart, ...]:
        """Those so far, oldest first."""
        return () if self._supervisor is None else tuple(self._supervisor.history)

    def snapshot(self) -> Snapshot:
        """What it is doing now; from any thread."""
        return self.service.snapshot(self.restarts)

    def require_running(self) -> None:
        """Return while the server is up or is being started again; it says nothing about its answers.

        Raises:
            ServingError: it was given up; the message carries the reason and its last words.
        """
        if self._supervisor is None:
            raise ServingError("the embedded Triton is not running: use it inside its with block")
        self._supervisor.require_running()

    def __enter__(self) -> Self:
        service = TritonService(
            self.repository,
            self.models,
            self._wanted_port,
            self._log_path,
            self._ready_timeout_s,
            self.exposure,
            self._supervision,
            self._grace_s,
        )
        service.start()
        self._service = service
        self._supervisor = Supervisor(service, self._supervision)
        self._supervisor.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Refuse new requests, answer those in flight, and wait until the server is gone; a second call does nothing."""
        service, supervisor = self._service, self._supervisor
        self._service = self._supervisor = None
        if supervisor is not None:
            supervisor.stop()
        if service is not None:
            service.stop()
