"""What of a server may be seen from where: the flags, and the rules they must meet. Pure functions; opens no port, starts nothing."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from .advisories import LEAST_FOR_A_NETWORK, MODEL_CONTROL, Version, holes_text
from .errors import ExposureError
from .port import LOOPBACK

ANY_ADDRESS = "0.0.0.0"
GRPC = "gRPC"
SOUND_TRACING: Version = (2, 57)  # research: serving.md §1.9


@dataclass(frozen=True)
class Exposure:
    """What the server opens. As it stands by default: gRPC on the loopback interface, and nothing else.

    Raises:
        ValueError: the values contradict each other, or open plain text to a network without `insecure`.
    """

    address: str = LOOPBACK
    """IPv4 address of gRPC (and of HTTP). Other than loopback it needs --tls-cert and --tls-key, or --insecure."""
    http_port: int | None = None
    """Also serve HTTP on this port. Triton has no TLS for HTTP, so beyond loopback it needs --insecure."""
    metrics_port: int | None = None
    """Also serve Prometheus metrics on this port, always in plain text and to whoever asks."""
    metrics_address: str = LOOPBACK
    """IPv4 address of the metrics."""
    tls_cert: Path | None = None
    """Certificate chain of gRPC, PEM; with --tls-key."""
    tls_key: Path | None = None
    """Its private key, PEM."""
    tls_client_ca: Path | None = None
    """Mutual TLS: only callers with a certificate of this authority (PEM) get in; needs --tls-own-cert and --tls-own-key."""
    tls_own_cert: Path | None = None
    """Mutual TLS: certificate with which histoserve itself asks the server whether it is well."""
    tls_own_key: Path | None = None
    """Its private key, PEM."""
    reloadable: bool = False
    """Follow the repository without a restart: a published or rolled back release is loaded, checked and only then entered. Turns on
    Triton's model control, behind the run's secret."""
    trace_otlp: str | None = None
    """Send traces to this OpenTelemetry collector (OTLP over HTTP, e.g. http://127.0.0.1:4318/v1/traces); one of a thousand requests."""
    insecure: bool = False
    """Open plain text, or a Triton with published holes, to a network all the same."""

    def __post_init__(self) -> None:
        for fault in flag_faults(self):
            raise ValueError(fault)

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches inference."""
        return _is_loopback(self.address)

    @property
    def opens_network(self) -> bool:
        """Whether any port can be reached from elsewhere."""
        return not self.is_local or (self.metrics_port is not None and not _is_loopback(self.metrics_address))

    @property
    def has_tls(self) -> bool:
        return self.tls_cert is not None

    @property
    def own_host(self) -> str:
        """Where this machine itself reaches gRPC."""
        return LOOPBACK if self.address == ANY_ADDRESS else self.address

    def ports(self, grpc_port: int) -> dict[str, tuple[str, int]]:
        """Each port that the server will open: what for → (address, port)."""
        opened = {GRPC: (self.address, grpc_port)}
        if self.http_port is not None:
            opened["HTTP"] = (self.address, self.http_port)
        if self.metrics_port is not None:
            opened["metrics"] = (self.metrics_address, self.metrics_port)
        return opened


def flag_faults(exposure: Exposure) -> list[str]:
    """What is wrong with the flags alone, whatever the server; empty where nothing is."""
    wrong_addresses = _wrong_addresses(exposure)
    if wrong_addresses:
        return wrong_addresses
    tls = {"--tls-cert": exposure.tls_cert, "--tls-key": exposure.tls_key}
    mutual = {"--tls-client-ca": exposure.tls_client_ca, "--tls-own-cert": exposure.tls_own_cert, "--tls-own-key": exposure.tls_own_key}
    faults = [*_incomplete(tls), *_incomplete(mutual)]
    if exposure.tls_client_ca is not None and not exposure.has_tls:
        faults.append("--tls-client-ca: expected --tls-cert and --tls-key with it, got none: mutual TLS is TLS first")
    if not exposure.is_local and not exposure.insecure:
        if not exposure.has_tls:
            faults.append(f"--address {exposure.address}: expected --tls-cert and --tls-key, got none: name them, or add --insecure")
        if exposure.http_port is not None:
            faults.append(f"--http-port: Triton's HTTP knows no TLS: leave it out beyond loopback ({exposure.address}), or add --insecure")
    if exposure.trace_otlp is not None and not exposure.trace_otlp.startswith(("http://", "https://")):
        faults.append(f"--trace-otlp {exposure.trace_otlp}: expected a URL of OTLP over HTTP, e.g. http://127.0.0.1:4318/v1/traces")
    if exposure.metrics_port is None and exposure.metrics_address != LOOPBACK:
        faults.append(f"--metrics-address {exposure.metrics_address}: expected a --metrics-port with it, got none")
    return faults


def port_faults(exposure: Exposure, grpc_port: int) -> list[str]:
    """Ports that are asked for twice."""
    ports = [port for _, port in exposure.ports(grpc_port).values()]
    return [
        f"port {port}: expected a port for each of gRPC, HTTP and metrics, got it twice" for port in set(ports) if ports.count(port) > 1
    ]


def check_version(exposure: Exposure, version: Version) -> None:
    """Refuse to open a server with published holes to a network.

    Raises:
        ExposureError: it has such, and `insecure` does not excuse it.
    """
    shown = ".".join(str(part) for part in version)
    if exposure.opens_network and not exposure.insecure and holes_text(version):
        least = LEAST_FOR_A_NETWORK
        raise ExposureError(
            f"Triton {shown}: expected at least {'.'.join(map(str, least.fixed_in))} (container {least.container}) for a network, "
            f"it has {holes_text(version)}: serve on loopback, use the container, or add --insecure"
        )
    if exposure.reloadable and not exposure.is_local and version < MODEL_CONTROL.fixed_in:
        raise ExposureError(  # even then: whoever reaches it runs code
            f"Triton {shown}: expected at least {'.'.join(map(str, MODEL_CONTROL.fixed_in))} (container {MODEL_CONTROL.container}) "
            f"for --reloadable beyond loopback, it has {MODEL_CONTROL.holes}: serve on loopback, or without --reloadable"
        )
    if exposure.trace_otlp is not None and version < SOUND_TRACING:
        raise ExposureError(
            f"Triton {shown}: expected at least {'.'.join(map(str, SOUND_TRACING))} for --trace-otlp, since older ones crash in tracing "
            "on long runs: use the container, or leave it out (metrics work)"
        )


def warnings(exposure: Exposure, version: Version) -> list[str]:
    """What the user has to know of an exposure that is allowed; empty for a loopback one."""
    found = []
    if not exposure.is_local and not exposure.has_tls:
        found.append(f"gRPC on {exposure.address} in plain text: whoever is on the way reads and changes tiles and masks")
    if not exposure.is_local and exposure.has_tls and exposure.tls_client_ca is None:
        found.append(f"gRPC on {exposure.address} answers whoever reaches it: TLS without --tls-client-ca tells callers nothing apart")
    if not exposure.is_local and exposure.http_port is not None:
        found.append(f"HTTP on {exposure.address} in plain text")
    if exposure.metrics_port is not None and not _is_loopback(exposure.metrics_address):
        found.append(f"metrics on {exposure.metrics_address} in plain text: names of models and their load")
    if exposure.opens_network and holes_text(version):
        found.append(f"a Triton open to a network with {holes_text(version)}")
    return found


def _wrong_addresses(exposure: Exposure) -> list[str]:
    faults = []
    for flag, address in (("--address", exposure.address), ("--metrics-address", exposure.metrics_address)):
        try:
            ipaddress.IPv4Address(address)
        except ValueError:
            faults.append(f"{flag} {address!r}: expected an IPv4 address such as {LOOPBACK} or {ANY_ADDRESS}")
    return faults


def _incomplete(group: dict[str, Path | None]) -> list[str]:
    missing = [flag for flag, value in group.items() if value is None]
    if not missing or len(missing) == len(group):
        return []
    given = [flag for flag in group if flag not in missing]
    return [f"{', '.join(given)}: expected {' and '.join(missing)} with it, got none"]


def _is_loopback(address: str) -> bool:
    return ipaddress.IPv4Address(address).is_loopback
