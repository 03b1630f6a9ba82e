"""Whether certificates fit before Triton gets them: a handshake between two ends in memory. Opens no port."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import ExposureError
from .exposure import Exposure

# A given list replaces tritonclient's defaults, so the message sizes stand here again (research: serving.md §1.8).
CHANNEL_ARGS = (("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True)
class ServerCertificate:
    """What a caller sees.

    Attributes:
        names: DNS names and IP addresses it is made out to; at least one.
        days_left: until it expires.
    """

    names: tuple[str, ...]
    days_left: float


def own_connection(exposure: Exposure, port: int, certificate: ServerCertificate | None) -> dict[str, Any]:
    """How histoserve itself reaches its server, whatever name the certificate is made out to: arguments of tritonclient's gRPC client.

    The server's certificate itself is trusted, no authority: another server on the port is not ours.
    """
    connection: dict[str, Any] = {"url": f"{exposure.own_host}:{port}", "channel_args": list(CHANNEL_ARGS)}
    if certificate is not None:
        connection |= {"ssl": True, "root_certificates": str(exposure.tls_cert)}
        connection["channel_args"].append(("grpc.ssl_target_name_override", certificate.names[0]))
        if exposure.tls_client_ca is not None:
            connection |= {"certificate_chain": str(exposure.tls_own_cert), "private_key": str(exposure.tls_own_key)}
    return connection


def check_certificates(exposure: Exposure) -> ServerCertificate | None:
    """Try the certificates on each other as Triton and a caller will.

    Returns:
        None without TLS.

    Raises:
        ExposureError: a file is missing or no PEM, key and certificate do not belong together, one is expired, the server's
            names nothing, or the own certificate is not of the client authority.
    """
    if exposure.tls_cert is None or exposure.tls_key is None:
        return None
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load_pair(server, exposure.tls_cert, exposure.tls_key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # which name callers use is theirs to know
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is what is trusted here, as gRPC does
    _load_authority(client, exposure.tls_cert)
    if exposure.tls_client_ca is not None and exposure.tls_own_cert is not None and exposure.tls_own_key is not None:
        server.verify_mode = ssl.CERT_REQUIRED
        _load_authority(server, exposure.tls_client_ca)
        _load_pair(client, exposure.tls_own_cert, exposure.tls_own_key)
    return _described(exposure.tls_cert, _handshake(client, server, exposure))


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    _require_files(certificate, key)
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise ExposureError(
            f"{certificate} and {key}: expected a PEM certificate and its unencrypted key, they do not fit ({_reason(error)}): "
            "name the pair that belongs together"
        ) from error


def _no_password() -> str:
    raise ValueError("the key is encrypted")  # Triton could not ask for it either; OpenSSL would on the terminal


def _load_authority(context: ssl.SSLContext, path: Path) -> None:
    _require_files(path)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ExposureError(f"{path}: expected PEM certificates, got something else ({_reason(error)}): name another file") from error


def _require_files(*paths: Path) -> None:
    for path in paths:
        try:
            path.read_bytes()
        except OSError as error:
            raise ExposureError(f"{path}: expected a PEM file that can be read, it cannot ({error.strerror}): name another file") from error


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, exposure: Exposure) -> dict[str, Any]:
    """Carry bytes between two ends until both are content; returns what the client knows of the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(10):  # TLS 1.3 needs two rounds
        waiting = 0
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting += 1
            except ssl.SSLError as error:
                raise _refusal(error, end is ends[1], exposure) from error
        if not waiting:
            return dict(ends[0].getpeercert() or {})
    raise AssertionError("unreachable: a handshake ends or fails within its rounds")


def _refusal(error: ssl.SSLError, by_server: bool, exposure: Exposure) -> ExposureError:
    if by_server:
        return ExposureError(
            f"{exposure.tls_own_cert}: expected a certificate of {exposure.tls_client_ca}, the server would refuse it "
            f"({_reason(error)}): name one of that authority, or another authority"
        )
    return ExposureError(
        f"{exposure.tls_cert}: expected a certificate that is valid now, callers would refuse it ({_reason(error)}): renew it"
    )


def _described(path: Path, certificate: dict[str, Any]) -> ServerCertificate:
    names = tuple(value for kind, value in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address"))
    if not names:
        raise ExposureError(
            f"{path}: expected a subjectAltName with the name callers use, it has none: gRPC ignores the common name; make it again"
        )
    return ServerCertificate(names, (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / _SECONDS_PER_DAY)


def _reason(error: Exception) -> str:
    """OpenSSL's words without its source lines."""
    return getattr(error, "verify_message", "") or str(getattr(error, "reason", "") or error).replace("_", " ").lower()
