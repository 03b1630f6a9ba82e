"""`histoserve serve`: Triton from the command line, kept up, and its state. Knows flags and signals, nothing of Triton."""

from __future__ import annotations

import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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

PROGRAM = "histoserve serve"
_POLL_S = 0.5


@dataclass(frozen=True)
class Serve:
    """Start Triton on a model repository and serve it over gRPC until Ctrl-C or SIGTERM; on this machine only, unless an address is named."""

    repository: Path = Path("model_repository")
    """Folder that `histoserve export` writes."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = ()
    """Models to serve, with all they need; none = every entry for callers."""
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
    exposure: Annotated[Exposure, tyro.conf.OmitArgPrefixes] = field(default_factory=Exposure)

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        for fault in port_faults(self.exposure, self.port):
            raise ValueError(fault)
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
    models = options.model or entry_names(options.repository)
    try:
        with _server(options, models) as server, _status(server, options):
            warn(options.exposure)
            print(f"{', '.join(models)}: ready at {server.address} ({reach(options.exposure)}); Ctrl-C stops", flush=True)
            while True:
                server.require_running()
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


def _server(options: Serve, models: Sequence[str]) -> EmbeddedTriton:
    return EmbeddedTriton(
        options.repository,
        models,
        port=options.port,
        log_path=options.log,
        exposure=options.exposure,
        supervision=Supervision(restarts=options.restarts, canary_every_s=options.canary_every_s),
        grace_s=60 * options.old_release_min,
    )


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
