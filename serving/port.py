"""TCP ports of this machine, on the loopback interface unless said. Knows no server."""

from __future__ import annotations

import errno
import socket

from .errors import PortError

LOOPBACK = "127.0.0.1"


def free_port() -> int:
    """A port that is free now; another process may still take it before it is used."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int, host: str = LOOPBACK) -> int:
    """The port itself.

    Raises:
        PortError: it is no port, is taken, or may not be used; or the host is no address of this machine.
    """
    if not 1 <= port <= 65535:
        raise PortError(f"port {port}: expected 1…65535: choose another --port")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a listener
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise port_in_use(port, host) from None
            if error.errno == errno.EADDRNOTAVAIL:
                raise PortError(f"{host}: expected an address of this machine, it is none: name another, or 0.0.0.0 for all") from error
            raise PortError(f"port {port}: expected one that may be used, got {error.strerror}: choose another --port") from error
    return port


def port_in_use(port: int, host: str = LOOPBACK) -> PortError:
    return PortError(f"port {port} on {host} is in use by another process: stop that, or choose another --port")


def is_listening(port: int, host: str = LOOPBACK) -> bool:
    """Whether anything, ours or not, accepts connections."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False
