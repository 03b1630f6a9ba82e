"""`histoserve serve`: the embedded Triton from the command line. Knows flags and signals, nothing of Triton."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from .check import entry_names
from .command import run
from .embedded import EmbeddedTriton
from .errors import ServingError

PROGRAM = "histoserve serve"
_POLL_S = 0.5


@dataclass(frozen=True)
class Serve:
    """Start Triton on a model repository and serve it over gRPC, on this machine only, until Ctrl-C or SIGTERM."""

    repository: Path = Path("model_repository")
    """Folder that `histoserve export` writes."""
    model: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME …")] = ()
    """Models to serve, with all they need; none = every entry for callers."""
    port: int = 8001
    """TCP port of gRPC on the loopback interface."""
    log: Path | None = None
    """Where Triton's own log goes; by default it is kept only where the start fails."""


def main(argv: Sequence[str]) -> int:
    options = tyro.cli(Serve, args=argv, prog=PROGRAM)
    return run(PROGRAM, lambda: serve(options), (ServingError,))


def serve(options: Serve) -> int:
    """Serve until a signal; 0 then."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end the block below the same way
    models = options.model or entry_names(options.repository)
    try:
        with EmbeddedTriton(options.repository, models, port=options.port, log_path=options.log) as server:
            print(f"{', '.join(models)}: ready at {server.address} (gRPC, this machine only); Ctrl-C stops", flush=True)
            while True:
                server.require_running()
                time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return 0
