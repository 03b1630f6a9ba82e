"""What is served, over one Triton process after another: the same models, port and secret. Decides nothing about restarts."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tritonclient.utils import InferenceServerException

from .canary import canary_contracts, run_canary
from .canary_watch import CanaryWatch, Progress
from .check import check_repository, entry_names
from .contract import Contract
from .errors import PortError, ServingError, StartError
from .exposure import GRPC, Exposure, check_version
from .launch import require_shared_memory
from .modelconfig import Config
from .port import free_port, port_in_use, require_free
from .release_set import first_steps, needed
from .reload import Reloader
from .restarts import Supervision
from .status import ModelCounters, Snapshot, read_models
from .supervisor import Restart
from .triton_binary import probe_binary
from .triton_install import find_install
from .triton_run import PortTaken, TritonRun

_PORT_TRIES = 3
_PORT_WAIT_S = 15.0  # until a server that lost its watchdog has left the port
_ANSWER_S = 2.0


class TritonService:
    """Ready and checked after `start`; `stop` ends it.

    Args:
        models: served with all they need; none = every entry of the repository, and of a reloadable service those that come later too.
        port: None = a free one, kept over restarts.
        grace_s: how long a release that no entry names anymore stays loaded after its last request; for reloadable services.

    Raises:
        ServingError: the models, the installation or the exposure do not fit; nothing was started.
    """

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        port: int | None,
        log_path: Path | None,
        ready_timeout_s: float,
        exposure: Exposure,
        supervision: Supervision,
        grace_s: float,
    ) -> None:
        self.repository, self.exposure = repository, exposure
        self._first_models = tuple(models) or entry_names(repository)
        self._supervision = supervision
        self._wanted_port = port
        self._log_path = log_path
        self._ready_timeout_s = ready_timeout_s
        self.configs: dict[str, Config] = check_repository(repository, self._first_models)
        self._install = find_install()
        self.version = probe_binary(self._install).version_text
        check_version(exposure, probe_binary(self._install).version)
        self.secret = secrets.token_urlsafe(24)
        self._run: TritonRun | None = None
        self._reloader = Reloader(repository, self._first_models, grace_s, discover=not models) if exposure.reloadable else None

    @property
    def models(self) -> tuple[str, ...]:
        """What callers may ask for now: as asked for at the start, or the entries that the repository has by now."""
        return self._first_models if self._reloader is None else self._reloader.models

    @property
    def run(self) -> TritonRun:
        """The server process of now.

        Raises:
            ServingError: there is none.
        """
        if self._run is None:
            raise ServingError("Triton is not running: it is being started again, or the start failed")
        return self._run

    def start(self) -> None:
        """The first start.

        Raises:
            ServingError: it does not become ready, or answers wrong values.
        """
        require_shared_memory(self.configs.values())
        for tries_left in reversed(range(_PORT_TRIES)):
            port = free_port() if self._wanted_port is None else self._wanted_port
            for purpose, (host, wanted) in self.exposure.ports(port).items():
                if purpose != GRPC or self._wanted_port is not None:
                    require_free(wanted, host)
            try:
                self._launch(port, threading.Event(), append_log=False)
                return
            except PortTaken as taken:
                if self._wanted_port is not None or not tries_left:
                    raise port_in_use(taken.port, self.exposure.address) from None
        raise AssertionError("unreachable: the last try returns or raises")

    def restart(self, give_up: threading.Event) -> None:
        """End the server as it is and start another in its place; callers who come again find it under the same address."""
        run, self._run = self._run, None
        port = self._port
        if run is not None:
            run.kill()
        if self._reloader is not None:
            self.configs = self._reloader.still_there(self.configs)
        require_shared_memory(self.configs.values())
        self._wait_for_port(port, give_up)
        try:
            self._launch(port, give_up, append_log=True)
        except PortTaken as taken:
            raise port_in_use(taken.port, self.exposure.address) from None

    def stop(self) -> None:
        """Refuse new requests, answer those in flight, end."""
        run, self._run = self._run, None
        if run is not None:
            run.stop()

    def fault(self) -> str | None:
        return self.run.fault() or self._canaries.fault()

    def tend(self) -> None:
        if self._reloader is not None:
            self.configs = self._reloader.step(self.run, self.configs)

    def failure(self, what: str) -> StartError:
        return StartError(what) if self._run is None else self._run.failure(what)

    def snapshot(self, restarts: Sequence[Restart]) -> Snapshot:
        """What it is doing now; from any thread."""
        run, configs, address = self._run, self.configs, f"{self.exposure.own_host}:{self._port}"
        models: tuple[ModelCounters, ...] = ()
        if run is not None:
            with contextlib.suppress(InferenceServerException), run.client() as client:
                statistics = client.get_inference_statistics(headers=run.admin_headers, client_timeout=_ANSWER_S)
                models = read_models(statistics, configs)
        return Snapshot(time.time(), address, self.version, "ready" if models else "restarting", models, tuple(restarts))

    def releases(self) -> list[str]:
        """The frozen ensembles behind the entries of now. Not those that only wait for their last callers: a canary would keep them."""
        return list(self._contracts())

    def _contracts(self) -> dict[str, Contract]:
        configs = self.configs
        entered = needed(configs, self.models)
        return canary_contracts(config for name, config in configs.items() if name in entered)

    def progress(self, release: str) -> Progress:
        """How far the models behind a frozen ensemble have come since they were loaded."""
        first = first_steps(self.configs, release)
        try:
            with self.run.client() as client:
                statistics = client.get_inference_statistics(headers=self.run.admin_headers, client_timeout=_ANSWER_S).model_stats
        except InferenceServerException:
            return Progress({}, first)
        models = needed(self.configs, [release])
        counted = {entry.name: entry.inference_stats for entry in statistics if entry.name in models}
        return Progress({name: stats.success.count + stats.fail.count for name, stats in counted.items()}, first)

    @property
    def port(self) -> int:
        """Of gRPC."""
        return self._port

    def _launch(self, port: int, give_up: threading.Event, *, append_log: bool) -> None:
        configs = self.configs
        run = TritonRun(
            self.repository, configs.values(), self._install, port, self.exposure, self.secret, self._log_path, append_log=append_log
        )
        try:
            run.wait_ready(self._ready_timeout_s, give_up)
            run.expect_stubs(configs)
            for contract in canary_contracts(configs.values()).values():
                self._ask(run, contract)
        except BaseException:
            run.kill()
            raise
        self._run, self._port = run, port
        self._canaries = CanaryWatch(self._supervision, self.releases, lambda release: self._ask_again(run, release), self.progress)

    def _ask_again(self, run: TritonRun, release: str) -> None:
        contract = self._contracts().get(release)
        if contract is not None:  # else it was retired between the look and the question
            self._ask(run, contract)

    def _ask(self, run: TritonRun, contract: Contract) -> None:
        with run.client() as client:
            run_canary(client, self.repository, contract)

    def _wait_for_port(self, port: int, give_up: threading.Event) -> None:
        deadline_s = time.monotonic() + _PORT_WAIT_S
        for host, wanted in self.exposure.ports(port).values():
            while True:
                try:
                    require_free(wanted, host)
                    break
                except PortError:
                    if time.monotonic() > deadline_s or give_up.wait(0.2):
                        raise
