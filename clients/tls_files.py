"""Certificates for a server that speaks TLS, as files. Knows no channel and no server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TlsFiles:
    """PEM files; with any of them a connection is encrypted, without all of them it is not.

    Attributes:
        authority: that signed the server's certificate, or this certificate itself; None = the authorities that gRPC ships.
        certificate: the caller's own, for a server that asks for one.
        key: of the certificate.

    Raises:
        ValueError: a certificate without its key, or a file that is not there; the message names the flag of the command.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("--tls-cert", "--tls-key") if self.key is None else ("--tls-key", "--tls-cert")
            raise ValueError(f"{given}: expected {missing} with it, got none")
        for flag, path in (("--tls-ca", self.authority), ("--tls-cert", self.certificate), ("--tls-key", self.key)):
            if path is not None and not path.is_file():
                raise ValueError(f"{flag} {path}: expected a PEM file, found none: check the path")

    @property
    def channel(self) -> dict[str, Any]:
        """What tritonclient's `InferenceServerClient` wants to know of them."""
        paths = {"root_certificates": self.authority, "certificate_chain": self.certificate, "private_key": self.key}
        given = {name: str(path) for name, path in paths.items() if path is not None}
        return {"ssl": True, **given} if given else {}
