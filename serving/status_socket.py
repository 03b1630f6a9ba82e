"""Where `histoserve serve` answers what it is doing: a Unix socket of its user, so that the admin secret stays in memory. Knows no Triton."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import stat
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from .errors import ServingError, StatusError
from .status import Snapshot, from_dict, to_dict

_ANSWER_S = 10.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid of the other end (SO_PEERCRED)


def socket_path(address: str, port: int) -> Path:
    """Of the server that serves gRPC there; in the user's runtime folder, else in a folder of the user in the temporary one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    folder = Path(runtime) / "histoserve" if runtime else Path(tempfile.gettempdir()) / f"histoserve-{os.getuid()}"
    return folder / f"{address}-{port}.sock"


class StatusSocket:
    """Each connection of the same user gets one snapshot as JSON, between `open` and `close`."""

    def __init__(self, path: Path, snapshot: Callable[[], Snapshot]) -> None:
        self._path = path
        self._snapshot = snapshot

    def open(self) -> None:
        """Answer from now on.

        Raises:
            StatusError: the socket cannot be made.
        """
        snapshot = self._snapshot

        class Handler(socketserver.StreamRequestHandler):
            timeout = _ANSWER_S

            def handle(self) -> None:
                if _peer_uid(self.connection) == os.getuid():
                    with contextlib.suppress(BrokenPipeError):
                        self.wfile.write(_answer(snapshot))

        try:
            _own_folder(self._path.parent)
            self._path.unlink(missing_ok=True)  # we hold the port, so a socket of its name is a dead server's
            self._server = socketserver.ThreadingUnixStreamServer(str(self._path), Handler)
            self._path.chmod(0o600)
        except OSError as error:
            raise StatusError(
                f"{self._path}: expected a place for a socket, got {error.strerror or error}: set XDG_RUNTIME_DIR to a folder of yours"
            ) from error
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="status", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # other servers of the user have theirs there
            self._path.parent.rmdir()


def read_status(path: Path) -> Snapshot:
    """Ask a running `histoserve serve`.

    Raises:
        StatusError: none runs there, or it gave something else.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_S)
            connection.connect(str(path))
            with connection.makefile("rb") as answer:
                raw = json.load(answer)
        if "error" in raw:
            raise StatusError(f"{path}: expected the state of the server, it says: {raw['error']}: try again")
        return from_dict(raw)
    except OSError as error:
        raise StatusError(
            f"{path}: expected a running `histoserve serve` of this user, got {error.strerror or error}: start one, or name its --address and --port"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StatusError(
            f"{path}: expected the state of a server, cannot read it ({error!r}): use the histoserve that started the server"
        ) from error


def _answer(snapshot: Callable[[], Snapshot]) -> bytes:
    try:
        return json.dumps(to_dict(snapshot())).encode()
    except ServingError as error:
        return json.dumps({"error": str(error)}).encode()


def _own_folder(folder: Path) -> None:
    """Make it, or refuse one that another user could have prepared."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise StatusError(f"{folder}: expected a folder that only this user can enter, got another: remove it")


def _peer_uid(connection: socket.socket) -> int:
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)
