"""The command line and environment of the embedded Triton 2.51: loopback only, nothing on that is not needed (research: serving.md §1.12). Starts nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import InstallationError
from .modelconfig import Config, ModelConfig
from .port import LOOPBACK
from .triton_install import TritonInstall
from .view import View

SHM = Path("/dev/shm")
SHM_BYTES = 64 * 2**20  # of each python stub: 64 tiles and their answers without growing in steps of 1 MB
EXIT_TIMEOUT_S = 5
ADMIN_KEY = "admin"
ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_KEY}"
# Not `model-config`: callers read the contract through it.
_ADMIN_PROTOCOLS = "shared-memory,model-repository,statistics,trace,logging"
# Would change what the stubs load, or open Vertex AI's port.
_DROPPED_PREFIXES = ("PYTHON", "LD_", "AIP_", "TRITON_", "VIRTUAL_ENV", "CONDA_")


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


def launch_command(install: TritonInstall, view: View, identity: Identity, port: int) -> list[str]:
    """Every flag exists in 2.51; an unknown one would end the server."""
    flags = {
        "id": identity.server_id,
        "model-repository": str(view.models),
        "backend-directory": str(view.backends),
        "model-control-mode": "none",
        "exit-on-error": "true",
        "strict-readiness": "true",
        "exit-timeout-secs": str(EXIT_TIMEOUT_S),
        "allow-http": "false",
        "allow-sagemaker": "false",
        "allow-vertex-ai": "false",
        "allow-metrics": "false",
        "grpc-address": LOOPBACK,
        "grpc-port": str(port),
        "grpc-restricted-protocol": f"{_ADMIN_PROTOCOLS}:{ADMIN_KEY}={identity.secret}",
    }
    python = {
        "shm-region-prefix-name": identity.shm_prefix,
        "shm-default-byte-size": str(SHM_BYTES),
        "shm-growth-byte-size": str(SHM_BYTES),
        "stub-timeout-seconds": "120",
    }
    command = [str(install.server), "--disable-auto-complete-config", *(f"--{name}={value}" for name, value in flags.items())]
    return [*command, *(f"--backend-config=python,{name}={value}" for name, value in python.items())]


def launch_environment(install: TritonInstall, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The caller's environment without what would leak another Python into the stubs."""
    kept = {name: value for name, value in inherited.items() if not name.startswith(_DROPPED_PREFIXES)}
    return kept | {
        "PATH": f"{install.folder / 'bin'}:{inherited.get('PATH', os.defpath)}",  # the stub finds its environment by PATH's python3
        "LD_LIBRARY_PATH": install.library_path,
        "CUDA_VISIBLE_DEVICES": "",  # this lane is the CPU's
        "ORT_DISABLE_TELEMETRY": "1",
    }


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
