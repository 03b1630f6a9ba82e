"""Where and with what a result was measured: the machine, the versions, the commit. Measures no speed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[2]
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Machine:
    """What a reader must know to judge absolute times.

    Attributes:
        cores: that this process may use.
        gpu: name and memory as nvidia-smi tells them; None = none.
    """

    cpu: str
    cores: int
    memory_gb: float
    gpu: str | None
    system: str


def this_machine() -> Machine:
    """The one that runs this; names no host."""
    memory_gb = round(psutil.virtual_memory().total / 1e9, 1)
    return Machine(_cpu_name(), len(os.sched_getaffinity(0)), memory_gb, _gpu_name(), f"{platform.system()} {platform.release()}")


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Python's and the installed packages' versions, those that are not installed left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit_of(folder: Path = _ROOT) -> str:
    """Of the source, short, with " (dirty)" where files differ from it; "unknown" outside a checkout."""
    try:
        commit = _ask_git(folder, "rev-parse", "--short=12", "HEAD")
        dirty = _ask_git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return _UNKNOWN
    return f"{commit} (dirty)" if dirty else commit


def _ask_git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "--no-optional-locks", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu_name() -> str:
    """As the kernel tells it, with family and model: virtual machines hide the product's number."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return platform.processor() or _UNKNOWN
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    family = f"family {known['cpu family']}, model {known['model']}" if "cpu family" in known and "model" in known else ""
    return ", ".join(part for part in (known.get("model name", platform.machine()), family) if part)


def _gpu_name() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip().replace("\n", "; ") or None if done.returncode == 0 else None
