"""The page for people beside a server: a process of its own (`python -m clients.ui`), which ends with this one. Imports nothing of the page."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from .errors import PageError, PortError
from .exposure import Exposure
from .port import LOOPBACK, require_free
from .tls import check_certificates
from .triton_install import SERVING_FOLDER
from .watchdog import end_of

MODULE = "clients.ui"
_STOP_S = 10.0


@dataclass(frozen=True)
class UiOptions:
    """Whether and where there is a page for people."""

    ui: bool = False
    """Also serve a page for people, on this machine only: drop an image or choose a region of a slide, see its mask and heat maps."""
    ui_port: int = 8090
    """TCP port of that page."""
    ui_slides: Path | None = None
    """Folder of slides whose regions can be chosen there."""

    def __post_init__(self) -> None:
        if self.ui_slides is not None and not self.ui:
            raise ValueError(f"--ui-slides {self.ui_slides}: expected --ui with it")


class UiProcess:
    """The page, from entering to leaving the block. It also ends when this process is killed: its standard input is a pipe from here.

    Args:
        command: of `ui_command`.
        port: of the page.

    Raises:
        PageError: a package is missing, the port is taken, or an option does not fit; nothing was started. Call it before Triton is started.
    """

    def __init__(self, command: Sequence[str], port: int) -> None:
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            require_free(port)
        except PortError as error:  # whose remedy is Triton's flag
            raise PageError(f"--ui-port {port}: expected a free port on {LOOPBACK}, it is not: choose another") from error
        asked = [*command, "--check"]
        checked = subprocess.run(asked, cwd=SERVING_FOLDER.parent, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if checked.returncode:
            raise PageError(f"--ui: {checked.stderr.strip() or f'the page cannot be started ({end_of(checked.returncode)})'}")

    def __enter__(self) -> Self:
        # A group of its own, so that Ctrl-C reaches us alone: the page goes after the server's callers were told.
        self._process = subprocess.Popen(
            [*self._command, "--until-stdin-ends"], cwd=SERVING_FOLDER.parent, stdin=subprocess.PIPE, process_group=0
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # the word to end
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None

    def fault(self) -> str | None:
        """How the page ended by itself, once; None while it is there. The server needs no page, so this is a warning."""
        if self._process is None or self._process.poll() is None:
            return None
        ended, self._process = self._process, None
        if ended.stdin is not None:
            ended.stdin.close()
        return f"the page for people ended {end_of(ended.returncode)}; the server goes on without it: start serve anew to have it back"


def ui_command(options: UiOptions, server: str, models: Sequence[str] | Path, exposure: Exposure) -> list[str]:
    """How the page for a server of ours is started; paths absolute, since it stands in another folder.

    Args:
        server: host:port of gRPC, as this machine reaches it.
        models: entries that are served; or the model repository, whose entries come and go.

    Raises:
        PageError: the server's certificate does not name the address that the page calls.
        ExposureError: the certificates do not fit.
    """
    command = [sys.executable, "-m", MODULE, "--server", server, "--port", str(options.ui_port)]
    command += ["--repository", str(models.absolute())] if isinstance(models, Path) else ["--model", *models]
    if options.ui_slides is not None:
        command += ["--slides", str(options.ui_slides.absolute())]
    certificate = check_certificates(exposure)
    if certificate is None:
        return command
    if exposure.own_host not in certificate.names:
        raise PageError(
            f"--ui: expected a certificate that also names {exposure.own_host}, {exposure.tls_cert} names {', '.join(certificate.names)}: "
            f"add that to it, or start the page by itself with `python -m {MODULE} --server NAME:PORT --tls-ca …`"
        )
    for flag, path in (("--tls-ca", exposure.tls_cert), ("--tls-cert", exposure.tls_own_cert), ("--tls-key", exposure.tls_own_key)):
        if path is not None:
            command += [flag, str(path.absolute())]
    return command
