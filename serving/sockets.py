"""Who listens on this machine's TCP ports, by the kernel's own tables (Linux). Connects to nobody."""

from __future__ import annotations

import contextlib
import ipaddress
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp
_TABLES = ("net/tcp", "net/tcp6")


@dataclass(frozen=True)
class Listener:
    """One listening socket.

    Attributes:
        address: IPv4 or IPv6, e.g. "127.0.0.1".
        pid: of a process that holds it; None where the kernel does not let us see.
        program: the process's name; "" where it cannot be seen.
    """

    address: str
    port: int
    pid: int | None
    program: str

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address).is_loopback

    def takes(self, address: str) -> bool:
        """Whether it keeps another from listening there on its port."""
        everywhere = ("0.0.0.0", "::")
        return self.address in (address, *everywhere) or address in everywhere

    def __str__(self) -> str:
        return f"{self.address}:{self.port} by " + (f"{self.program} (process {self.pid})" if self.pid else "another user's process")


def listeners() -> list[Listener]:
    """Every listening TCP socket of this network namespace."""
    sockets = [socket for table in _TABLES for socket in _read_table(PROC / table)]
    owners = _owners({inode for _, _, inode in sockets})
    return [Listener(address, port, *owners.get(inode, (None, ""))) for address, port, inode in sockets]


def _read_table(table: Path) -> Iterator[tuple[str, int, str]]:
    if not table.exists():  # a kernel without IPv6
        return
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            yield _address(address), int(port, 16), fields[9]


def _address(text: str) -> str:
    """Words of 4 bytes, each in the machine's byte order."""
    words = [bytes.fromhex(text[start : start + 8]) for start in range(0, len(text), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    address = ipaddress.ip_address(packed)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _owners(inodes: set[str]) -> dict[str, tuple[int | None, str]]:
    """The process behind each socket, as far as it can be seen; the first one where several hold it."""
    owners: dict[str, tuple[int | None, str]] = {}
    for process in sorted((path for path in PROC.iterdir() if path.name.isdigit()), key=lambda path: int(path.name)):
        for inode in _held(process) & inodes:
            with contextlib.suppress(OSError):  # ended meanwhile
                owners.setdefault(inode, (int(process.name), (process / "comm").read_text().strip()))
    return owners


def _held(process: Path) -> set[str]:
    """The sockets of one process; none where it is another user's, which the kernel hides."""
    held = set()
    with contextlib.suppress(OSError):
        for file in (process / "fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile: the listing's own, for one
                held.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    return held
