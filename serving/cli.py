"""`histoserve serve`: Triton from the command line. Knows flags and signals, nothing of Triton."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from .check import entry_names
from .command import run
from .embedded import EmbeddedTriton
from .errors import ExposureError, ServingError
from .exposure import Exposure, port_faults, warnings
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
    exposure: Annotated[Exposure, tyro.conf.OmitArgPrefixes] = field(default_factory=Exposure)

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        for fault in port_faults(self.exposure, self.port):
            raise ValueError(fault)


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Serve, args=argv, prog=PROGRAM)
    return run(PROGRAM, lambda: serve(options), (ServingError,))


def serve(options: Serve) -> int:
    """Serve until a signal; 0 then."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end the block below the same way
    require_offered(options.exposure)
    models = options.model or entry_names(options.repository)
    try:
        with EmbeddedTriton(options.repository, models, port=options.port, log_path=options.log, exposure=options.exposure) as server:
            warn(options.exposure)
            print(f"{', '.join(models)}: ready at {server.address} ({reach(options.exposure)}); Ctrl-C stops", flush=True)
            while True:
                server.require_running()
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return 0


def require_offered(exposure: Exposure) -> None:
    """Refuse what the launcher knows and the server around it does not do yet.

    Raises:
        ExposureError: --reloadable.
    """
    if exposure.reloadable:
        raise ExposureError(
            "--reloadable: expected a start without it, since nothing here loads a release into a running server yet: restart"
        )


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
