"""`histoserve serve`: Triton from the command line, kept up, and its state. Knows flags and signals, nothing of Triton."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from .check import entry_names
from .command import run
from .embedded import EmbeddedTriton
from .errors import ServingError, StatusError
from .exposure import Exposure, port_faults, warnings
from .reload import GRACE_S
from .restarts import Supervision
from .status_socket import StatusSocket, socket_path
from .status_view import print_json, show
from .triton_binary import probe_binary
from .triton_install import find_install
from .ui_process import UiOptions, UiProcess, ui_command

PROGRAM = "histoserve serve"
_POLL_S = 0.5


@dataclass(frozen=True)
class Serve:
    """Start Triton on a model repository and serve it over gRPC until Ctrl-C or SIGTERM; on this machine only, unless an address is named."""

    repository: Path = Path("model_repository")
    """Folder that `histoserve export` writes."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = ()
    """Models to serve, with all they need; none = every entry for callers, with --reloadable also those that are published later."""
    port: int = 8001
    """TCP port of gRPC."""
    log: Path | None = None
    """Where Triton's own log goes; by default it is kept only where the start fails."""
    restarts: int = Supervision.restarts
    """Restarts within ten minutes, then serving ends with 1; 0 = the first dead process or wrong answer ends it."""
    canary_every_s: float = Supervision.canary_every_s
    """Seconds between two checks of each release's values."""
    old_release_min: float = GRACE_S / 60
    """With --reloadable: minutes after its last request until a release that no entry names anymore is unloaded."""
    status: bool = False
    """Start nothing: show what the server of this user at --address and --port is doing, live."""
    json: bool = False
    """With --status: print one snapshot as JSON instead."""
    page: Annotated[UiOptions, tyro.conf.OmitArgPrefixes] = field(default_factory=UiOptions)
    exposure: Annotated[Exposure, tyro.conf.OmitArgPrefixes] = field(default_factory=Exposure)

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        for fault in port_faults(self.exposure, self.port):
            raise ValueError(fault)
        if self.page.ui and self.page.ui_port in {port for _, port in self.exposure.ports(self.port).values()}:
            raise ValueError(f"--ui-port {self.page.ui_port}: expected a port of its own, got one that Triton uses")
        if self.json and not self.status:
            raise ValueError("--json: expected --status with it")
        if self.restarts < 0 or self.canary_every_s <= 0 or self.old_release_min < 0:
            raise ValueError("--restarts, --old-release-min: expected at least 0; --canary-every-s: more than 0")


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Serve, args=argv, prog=PROGRAM)
    return run(PROGRAM, lambda: show_status(options) if options.status else serve(options), (ServingError,))


def serve(options: Serve) -> int:
    """Serve until a signal; 0 then."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end the block below the same way
    logging.basicConfig(format=f"{PROGRAM}: %(asctime)s %(message)s", level=logging.WARNING)
    try:
        page = _page(options)  # before Triton: what it lacks is told at once
        with ExitStack() as stack:
            server = stack.enter_context(_server(options))
            stack.enter_context(_status(server, options))
            warn(options.exposure)
            print(f"{', '.join(server.service.models)}: ready at {server.address} ({reach(options.exposure)}); Ctrl-C stops", flush=True)
            if page is not None:
                stack.enter_context(page)
            while True:
                server.require_running()
                if page is not None and (fault := page.fault()) is not None:
                    print(f"{PROGRAM}: warning: {fault}", file=sys.stderr, flush=True)
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return 0


def show_status(options: Serve) -> int:
    """Until Ctrl-C; 0 then."""
    path = socket_path(options.exposure.address, options.port)
    if options.json:
        print_json(path)
        return 0
    try:
        show(path, Console())
    except KeyboardInterrupt:
        return 0


def _server(options: Serve) -> EmbeddedTriton:
    return EmbeddedTriton(
        options.repository,
        options.model,
        port=options.port,
        log_path=options.log,
        exposure=options.exposure,
        supervision=Supervision(restarts=options.restarts, canary_every_s=options.canary_every_s),
        grace_s=60 * options.old_release_min,
    )


def _page(options: Serve) -> UiProcess | None:
    """The page for people where one is wanted: checked, not started."""
    if not options.page.ui:
        return None
    if not options.model:
        entry_names(options.repository)  # refuses a repository without any
    models = options.model or options.repository  # in the latter case the page offers what is in it and served, also what comes later
    address = f"{options.exposure.own_host}:{options.port}"
    return UiProcess(ui_command(options.page, address, models, options.exposure), options.page.ui_port)


@contextmanager
def _status(server: EmbeddedTriton, options: Serve) -> Iterator[None]:
    """Answer --status; a server that cannot is still a server."""
    try:
        socket = StatusSocket(socket_path(options.exposure.address, options.port), server.snapshot)
        socket.open()
    except StatusError as error:
        logging.getLogger(__name__).warning("no --status: %s", error)
        yield
        return
    try:
        yield
    finally:
        socket.close()


def warn(exposure: Exposure) -> None:
    """Say on stderr what is open; says nothing of a server on loopback."""
    if exposure.opens_network:
        for warning in warnings(exposure, probe_binary(find_install()).version):
            print(f"{PROGRAM}: warning: {warning}", file=sys.stderr, flush=True)


def reach(exposure: Exposure) -> str:
    """Who can call, in a few words."""
    if exposure.is_local:
        return "gRPC, this machine only" if not exposure.has_tls else "gRPC with TLS, this machine only"
    kind = "plain text" if not exposure.has_tls else "TLS" if exposure.tls_client_ca is None else "mutual TLS"
    return f"gRPC, {kind}, on {exposure.address}"
