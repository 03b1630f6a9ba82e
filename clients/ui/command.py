"""The page's command line: flags, signals, and the end of whoever started it. Knows no model and no pixels."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from aiohttp import web

from serving.command import run
from serving.entry import DEFAULT_MODEL
from serving.port import LOOPBACK

from ..endpoint import Tls
from ..errors import ClientError
from ..header_file import read_headers
from ..server_list import parse_servers
from ..tls_files import TlsFiles
from .app import make_app
from .entries import RepositoryEntries
from .errors import AddressError
from .models import Models
from .slides import SlideFolder

PROGRAM = "histoserve ui"
PORT = 8090
_STDIN = 0
_STOP_S = 2.0  # for answers on the way, when the page ends


@dataclass(frozen=True)
class PageConfig:
    """Serve a small page for people on this machine, which calls a running server: drop an image, see its mask and heat maps."""

    server: str
    """Address of a Triton, host:port, or of several with commas between, which serve the same and take turns."""
    model: tuple[str, ...] = ()
    """Served models to choose from: NAME, NAME_segment, NAME_cam or NAME_segment_image; none = "default", or all of --repository."""
    repository: Path | None = None
    """Model repository of the server, where it is on this machine: the page offers whatever is in it and served, as it comes and goes."""
    slides: Path | None = None
    """Folder of slides (not those of folders within) whose regions can be chosen."""
    address: str = LOOPBACK
    """Where the page is served: a loopback address."""
    port: int = PORT
    """TCP port of the page."""
    tls_ca: Path | None = None
    """PEM: authority of the server's certificate, or that itself. With any of these three flags the connection to --server is encrypted."""
    tls_cert: Path | None = None
    """PEM: your own certificate, where the server asks for one (mutual TLS)."""
    tls_key: Path | None = None
    """PEM: its key."""
    headers: Path | None = None
    """File of headers for every request to --server, `name: value` a line, e.g. `authorization: Bearer …`: a token on the command line
    could be read by others. It is read at the start; without TLS it can be read on the network."""
    check: bool = False
    """Start nothing: exit with 0 if the page could be started."""
    until_stdin_ends: bool = False
    """End when standard input ends: so the page goes when `histoserve serve --ui` does, however that ends."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        if not is_loopback(self.address):
            raise ValueError(
                f"--address {self.address}: expected a loopback address such as {LOOPBACK}: the page has no passwords and no encryption, so "
                "whoever reached it would read your slides; from another machine, forward the port with ssh -L"
            )
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port {self.port}: expected 1…65535")
        parse_servers(self.server)
        if self.model and self.repository is not None:
            raise ValueError("--model, --repository: expected one of them, got both: name the models, or offer all that the repository has")
        if self.repository is not None and not self.repository.is_dir():
            raise ValueError(f"--repository {self.repository}: expected a model repository, found no such folder: check the path")
        if self.slides is not None and not self.slides.is_dir():
            raise ValueError(f"--slides {self.slides}: expected a folder of slides, found none: check the path")
        TlsFiles(self.tls_ca, self.tls_cert, self.tls_key)
        if self.headers is not None:
            read_headers(self.headers)

    @property
    def tls(self) -> Tls | None:
        """None = plain text."""
        files = (self.tls_ca, self.tls_cert, self.tls_key)
        return Tls(*files) if any(files) else None


def main(argv: Sequence[str]) -> int:
    config = tyro.cli(PageConfig, args=argv, prog=PROGRAM)
    return 0 if config.check else run(PROGRAM, lambda: asyncio.run(serve_page(config)), (ClientError,))


async def serve_page(config: PageConfig) -> int:
    """Serve until a signal, or until standard input ends where that is wanted; 0 then.

    Raises:
        AddressError: the port cannot be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(signum, stop.set)
    if config.until_stdin_ends:
        threading.Thread(target=_wait_for_end, args=(loop, stop), daemon=True).start()
    models = make_models(config)
    slides = None if config.slides is None else SlideFolder(config.slides)
    runner = web.AppRunner(make_app(models, slides, config.address, config.port), access_log=None, shutdown_timeout=_STOP_S)
    try:
        await runner.setup()
        await _listen(runner, config)
        print(f"{PROGRAM}: the page is at http://{_as_host(config.address)}:{config.port}", flush=True)
        await stop.wait()
    finally:
        await asyncio.to_thread(models.close)  # first: calls that still wait end with it
        await runner.cleanup()
        if slides is not None:
            slides.close()
    return 0


def make_models(config: PageConfig) -> Models:
    """
    Raises:
        HeaderFileError: the headers cannot be read any more.
    """
    named = config.model or (DEFAULT_MODEL,)
    names = (lambda: named) if config.repository is None else RepositoryEntries(config.repository)
    headers = None if config.headers is None else read_headers(config.headers)
    return Models(config.server, names, config.tls, headers)


async def _listen(runner: web.AppRunner, config: PageConfig) -> None:
    try:
        await web.TCPSite(runner, config.address, config.port).start()
    except OSError as error:
        raise AddressError(
            f"port {config.port} on {config.address}: expected a free port, got {os.strerror(error.errno or 0)}: choose another (--ui-port of "
            "`histoserve serve`, --port of `histoserve ui`)"
        ) from error


def is_loopback(address: str) -> bool:
    """Of this machine alone; names are not resolved, since what they mean can change."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _as_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _wait_for_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Reads past sys.stdin, whose lock a thread must not hold when the interpreter ends."""
    while os.read(_STDIN, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)
