"""Findings about the machine: GPU, shared memory, ports, certificates, who could read Triton's secret. Changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import ExposureError, PortError
from .exposure import Exposure
from .findings import Finding, Question, failure, judged
from .launch import SHM, has_gpu, require_shared_memory
from .modelconfig import Config, ModelConfig
from .port import require_free
from .sockets import listeners
from .tls import check_certificates

_GPU_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_FIRST_LOGIN_UID = 1000
_NOBODY_UID = 65534
_DAYS_LEFT = 30
_MIB = 2**20


def examine_machine(question: Question, configs: Mapping[str, Config], environment: Mapping[str, str]) -> Iterator[Finding]:
    yield gpu(configs, environment)
    yield judged("shared memory", lambda: _shared_memory(configs))
    yield _temporary_folder()
    for purpose, (host, port) in question.exposure.ports(question.port).items():
        yield free_port(purpose, host, port)
    yield _certificates(question.exposure)
    yield admin_secret()


def gpu(configs: Mapping[str, Config], environment: Mapping[str, str]) -> Finding:
    """By nvidia-smi; a failure only where a model cannot do without."""
    need = [config.name for config in configs.values() if isinstance(config, ModelConfig) and config.backend == "tensorrt"]
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None and not has_gpu():
        if need:
            return Finding(
                "GPU", "failure", f"expected one for {', '.join(need)}, found none", "serve where there is one, or export for CPU"
            )
        return Finding("GPU", "OK", "none: networks run on the CPU")
    if program is None:
        return Finding(
            "GPU", "warning", "a driver, and no nvidia-smi to ask", "install the driver's tools: without them nothing tells memory or age"
        )
    done = subprocess.run([program, *_GPU_QUERY], capture_output=True, text=True, check=False, timeout=30)
    said = "; ".join(line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip())
    if done.returncode:
        return Finding("GPU", "failure" if need else "warning", f"nvidia-smi fails: {said}", "repair the driver, or hide the GPU")
    return Finding("GPU", "OK", said)


def _shared_memory(configs: Mapping[str, Config]) -> str:
    require_shared_memory(configs.values())
    usage = shutil.disk_usage(SHM)
    return f"{SHM}: {usage.free // _MIB} of {usage.total // _MIB} MB free"


def _temporary_folder() -> Finding:
    """Where the server's view is made; a read-only container needs one mounted."""
    try:
        with tempfile.TemporaryDirectory(prefix="histoserve-doctor-") as folder:
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("temporary folder", "failure", f"none can be written ({error.strerror})", "mount a tmpfs on /tmp, or set TMPDIR")
    return Finding("temporary folder", "OK", f"{tempfile.gettempdir()}: {free // _MIB} MB free")


def free_port(purpose: str, host: str, port: int) -> Finding:
    """Whether the server could listen there, and who does where it cannot."""
    name = f"port of {purpose}"
    try:
        require_free(port, host)
    except PortError as error:
        users = [str(listener) for listener in listeners() if listener.port == port and listener.takes(host)]
        found, _, remedy = str(error).rpartition(": ")
        return Finding(name, "failure", f"{found}: {'; '.join(users)}" if users else found, remedy)
    return Finding(name, "OK", f"{host}:{port} is free")


def _certificates(exposure: Exposure) -> Finding:
    try:
        certificate = check_certificates(exposure)
    except ExposureError as error:
        return failure("certificates", error)
    if certificate is None:
        return Finding("certificates", "OK", "none: no TLS")
    found = f"made out to {', '.join(certificate.names)}; expires in {certificate.days_left:.0f} days"
    if certificate.days_left < _DAYS_LEFT:
        return Finding("certificates", "warning", found, "renew it")
    return Finding("certificates", "OK", found)


def admin_secret(proc: Path = Path("/proc")) -> Finding:
    """Triton takes the admin protocols' secret on its command line only, where other users of the machine can read it."""
    name = "admin secret"
    if hides_processes((proc / "mounts").read_text()):
        return Finding(name, "OK", "/proc hides processes from other users")
    others = other_users(proc)
    if others:
        found = f"Triton's command line shows it to the other users of this machine (user ids {', '.join(map(str, others))})"
        return Finding(name, "warning", found, "mount /proc with hidepid=2, or serve in a container or on a machine of your own")
    return Finding(name, "OK", "no other user runs anything here; one that does could read it from Triton's command line")


def hides_processes(mounts: str) -> bool:
    """Whether /proc is mounted so that users see their own processes alone."""
    for line in mounts.splitlines():
        fields = line.split()
        if fields[1:3] == ["/proc", "proc"]:
            return any(option in ("hidepid=1", "hidepid=2", "hidepid=noaccess", "hidepid=invisible") for option in fields[3].split(","))
    return False


def other_users(proc: Path) -> list[int]:
    """Ids of people, not of services, that run something."""
    ids = set()
    for process in proc.iterdir():
        if process.name.isdigit():
            try:
                ids.add(process.stat().st_uid)
            except OSError:
                continue  # ended meanwhile
    return sorted(uid for uid in ids if uid >= _FIRST_LOGIN_UID and uid not in (os.getuid(), _NOBODY_UID))
