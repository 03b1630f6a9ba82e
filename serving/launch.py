"""The command line and environment of a Triton: nothing open that is not asked for, no flag it does not know (serving.md §1.12). Starts nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import InstallationError
from .exposure import Exposure
from .modelconfig import Config, ModelConfig
from .triton_binary import Binary, probe_binary
from .triton_install import TritonInstall
from .view import View

SHM = Path("/dev/shm")
SHM_BYTES = 64 * 2**20  # of each python stub: 64 tiles and their answers without growing in steps of 1 MB
EXIT_TIMEOUT_S = 30  # what is in flight is answered within it; a batch of 64 tiles takes a CPU 10 s
ADMIN_KEY = "admin"
ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_KEY}"
# Not `model-config`: callers read the contract through it.
_ADMIN_PROTOCOLS = "shared-memory,model-repository,statistics,trace,logging"
# Would change what the stubs load, or open Vertex AI's port.
_DROPPED_PREFIXES = ("PYTHON", "LD_", "AIP_", "TRITON_", "VIRTUAL_ENV", "CONDA_")
_GPU_DEVICE = Path("/dev/nvidiactl")
_TRACE_EVERY = 1000  # requests: a slide sends thousands of alike ones
_QUANTILES = "0.5:0.05,0.95:0.005,0.99:0.001"


@dataclass(frozen=True)
class Identity:
    """What makes one run of the server recognizable.

    Attributes:
        server_id: the name in its metadata: another server on the port cannot know it.
        secret: opens the admin protocols.
        shm_prefix: of its files in /dev/shm.
    """

    server_id: str
    secret: str
    shm_prefix: str


@dataclass(frozen=True)
class Flag:
    """One flag of the command line.

    Attributes:
        value: None = the flag stands alone.
        if_known: left out where the binary lacks it; every other flag is one that histoserve will not start without.
    """

    name: str
    value: str | None
    if_known: bool = False

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value}"


def launch_command(
    install: TritonInstall, view: View, identity: Identity, port: int, exposure: Exposure | None = None, binary: Binary | None = None
) -> list[str]:
    """The server's command line.

    Args:
        port: of gRPC.
        exposure: None = loopback only.
        binary: None = ask it.

    Raises:
        InstallationError: the binary lacks a flag without which it would be open or wrong.
    """
    exposure = exposure or Exposure()
    binary = binary or probe_binary(install)
    gpu = install.lane == "container" and has_gpu()  # the wheel's lane hides it from the server
    flags = [
        *_models(install, view, identity),
        *_ports(exposure, port, identity),
        *_metrics(exposure, gpu),
        *_tracing(exposure),
        *_tuning(gpu),
    ]
    missing = [flag.name for flag in flags if flag.name not in binary.flags and not flag.if_known]
    if missing:
        raise InstallationError(
            f"{install.server}: expected a Triton that knows {', '.join(missing)}, {binary.version_text} does not: "
            "run make setup again, or use a container of docker/"
        )
    return [str(install.server), *(str(flag) for flag in flags if flag.name in binary.flags)]


def left_out(binary: Binary) -> list[str]:
    """Flags that newer servers know and this one does without."""
    optional = [flag.name for flag in (*_ports(Exposure(), 1, Identity("", "", "")), *_tuning(gpu=False)) if flag.if_known]
    return [name for name in dict.fromkeys(optional) if name not in binary.flags]


def _models(install: TritonInstall, view: View, identity: Identity) -> Iterator[Flag]:
    yield Flag("--disable-auto-complete-config", None)
    yield Flag("--id", identity.server_id)
    yield Flag("--model-repository", str(view.models))
    # In the container the native backends are there; the view's are the wheel's and our own.
    yield Flag("--backend-directory", str(view.backends if install.lane == "wheel" else install.backends))
    yield Flag("--exit-on-error", "true")
    yield Flag("--strict-readiness", "true")
    yield Flag("--exit-timeout-secs", str(EXIT_TIMEOUT_S))
    python = {
        "shm-region-prefix-name": identity.shm_prefix,
        "shm-default-byte-size": str(SHM_BYTES),
        "shm-growth-byte-size": str(SHM_BYTES),
        "stub-timeout-seconds": "120",
    }
    for name, value in python.items():
        yield Flag("--backend-config", f"python,{name}={value}")


def _ports(exposure: Exposure, port: int, identity: Identity) -> Iterator[Flag]:
    yield Flag("--grpc-address", exposure.address)
    yield Flag("--grpc-port", str(port))
    yield Flag("--grpc-restricted-protocol", f"{_ADMIN_PROTOCOLS}:{ADMIN_KEY}={identity.secret}")
    yield Flag("--model-control-mode", "explicit" if exposure.reloadable else "none")
    if exposure.reloadable:
        yield Flag("--load-model", "*")
    # Behind the secret in any case, and before 26.04 always on; callers on other machines have no use for it.
    yield Flag("--allow-client-shm", "true" if exposure.is_local else "false", if_known=True)
    yield Flag("--allow-sagemaker", "false", if_known=True)
    yield Flag("--allow-vertex-ai", "false", if_known=True)
    yield Flag("--allow-http", "false" if exposure.http_port is None else "true")
    if exposure.http_port is not None:
        yield Flag("--http-address", exposure.address)
        yield Flag("--http-port", str(exposure.http_port))
        # HTTP has a list of its own: what is restricted in one protocol is open in the other.
        yield Flag("--http-restricted-api", f"{_ADMIN_PROTOCOLS}:{ADMIN_KEY}={identity.secret}")
        yield Flag("--http-max-input-size", str(64 * 2**20), if_known=True)
    if exposure.tls_cert is not None and exposure.tls_key is not None:
        yield Flag("--grpc-use-ssl", "true")
        yield Flag("--grpc-server-cert", str(exposure.tls_cert.absolute()))  # the server stands in another folder
        yield Flag("--grpc-server-key", str(exposure.tls_key.absolute()))
    if exposure.tls_client_ca is not None:
        yield Flag("--grpc-use-ssl-mutual", "true")
        yield Flag("--grpc-root-cert", str(exposure.tls_client_ca.absolute()))
    if not exposure.is_local:
        yield Flag("--grpc-max-connection-age", "60000")  # ms: callers that balance over replicas then see new ones


def _metrics(exposure: Exposure, gpu: bool) -> Iterator[Flag]:
    yield Flag("--allow-metrics", "false" if exposure.metrics_port is None else "true")
    if exposure.metrics_port is None:
        return
    yield Flag("--metrics-address", exposure.metrics_address)  # without it: every interface
    yield Flag("--metrics-port", str(exposure.metrics_port))
    yield Flag("--allow-gpu-metrics", "true" if gpu else "false")
    yield Flag("--metrics-config", "summary_latencies=true")
    yield Flag("--metrics-config", f"summary_quantiles={_QUANTILES}")


def _tracing(exposure: Exposure) -> Iterator[Flag]:
    if exposure.trace_otlp is None:
        return
    yield Flag("--trace-config", "mode=opentelemetry")
    yield Flag("--trace-config", f"opentelemetry,url={exposure.trace_otlp}")
    yield Flag("--trace-config", "opentelemetry,resource=service.name=histoserve")
    yield Flag("--trace-config", f"rate={_TRACE_EVERY}")
    yield Flag("--trace-config", "level=TIMESTAMPS")


def _tuning(gpu: bool) -> Iterator[Flag]:
    """Research: serving.md §1.0, §1.4, §1.12."""
    yield Flag("--grpc-infer-thread-count", "8", if_known=True)
    yield Flag("--grpc-max-response-pool-size", "64", if_known=True)
    if gpu:  # an ensemble's tensors fall out of the default 64 MB to the host without a word
        yield Flag("--cuda-memory-pool-byte-size", f"0:{2**31}")
        yield Flag("--pinned-memory-pool-byte-size", str(2**30))


def has_gpu(device: Path = _GPU_DEVICE) -> bool:
    """Whether NVIDIA's driver is here."""
    return device.exists()


def launch_environment(install: TritonInstall, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The caller's environment without what would leak another Python into the stubs."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_DROPPED_PREFIXES)}
    ours = {
        "PATH": f"{install.python_folder}:{inherited.get('PATH', os.defpath)}",  # the stub finds its environment by PATH's python3
        "LD_LIBRARY_PATH": install.library_path,
        "ORT_DISABLE_TELEMETRY": "1",
    }
    if install.lane == "wheel":
        ours["CUDA_VISIBLE_DEVICES"] = ""  # this lane is the CPU's
    return kept | ours


def require_shared_memory(configs: Iterable[Config], free_bytes: int | None = None) -> None:
    """Refuse before Triton dies of it with a bus error.

    Raises:
        InstallationError: /dev/shm is missing or has too little room for the stubs.
    """
    if free_bytes is None:
        if not SHM.is_dir():
            raise InstallationError(f"{SHM}: expected shared memory, which Triton's Python backend needs, found none: mount a tmpfs there")
        free_bytes = shutil.disk_usage(SHM).free
    instances = sum(config.instance_count for config in configs if isinstance(config, ModelConfig))
    needed = (instances + 1) * SHM_BYTES  # one more: room for one of them to grow
    if free_bytes < needed:
        raise InstallationError(
            f"{SHM}: expected {needed >> 20} MB free for {instances} model instances, found {free_bytes >> 20} MB: "
            "make it larger (docker run --shm-size=1g), or serve fewer models"
        )
