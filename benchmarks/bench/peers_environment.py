"""Where the peers live: a virtual environment for TIAToolbox, a folder of packages for FastAPI, the networks that all of them run. Made once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import BenchError

TIATOOLBOX, TORCH, TORCHVISION = "tiatoolbox==2.1.3", "torch==2.13.0", "torchvision==0.28.0"
HTTP_PACKAGES = ("fastapi==0.165.0", "uvicorn==0.54.0")
_DONE = ".done"
# TIAToolbox 2.1.3 asks for torch < 2.13; it gets the torch of everybody else here, or what is compared would be two releases of torch.
_LIST_NEEDS = """
import importlib.metadata
for text in importlib.metadata.requires("tiatoolbox"):
    if "extra ==" not in text and not text.startswith("torch"):
        print(text.split(";")[0].strip())
"""


class PeerMissing(BenchError):
    """A peer cannot be installed here; the message is the reason."""


def tiatoolbox_python(folder: Path) -> Path:
    """The interpreter of a virtual environment with TIAToolbox, which is made where it is not there.

    Raises:
        PeerMissing: it cannot be installed.
    """
    python = folder / "bin" / "python"

    def make() -> None:
        _run("TIAToolbox", sys.executable, "-m", "venv", str(folder))
        pip = (str(python), "-m", "pip", "install", "--quiet")
        # Where a CPU build of torch is at hand this keeps it; torchvision would bring another (training/torchvision_schemas.py).
        _run("TIAToolbox", *pip, TORCH)
        _run("TIAToolbox", *pip, "--no-deps", TIATOOLBOX, TORCHVISION)
        needs = _run("TIAToolbox", str(python), "-c", _LIST_NEEDS).splitlines()
        _run("TIAToolbox", *pip, TORCH, *needs)

    _once(folder, TIATOOLBOX, make)
    return python


def http_packages(folder: Path) -> Path:
    """A folder with FastAPI and uvicorn for PYTHONPATH: beside our own environment, whose engine they serve.

    Raises:
        PeerMissing: they cannot be installed.
    """
    _once(folder, " ".join(HTTP_PACKAGES), lambda: _install_http(folder))
    return folder


def _install_http(folder: Path) -> None:
    _run("FastAPI", sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *HTTP_PACKAGES)


def make_networks(folder: Path, *arguments: str) -> dict[str, Any]:
    """The networks (`benchmarks/peers/make_networks.py`), made anew where they were made with other arguments; their notes.

    Raises:
        BenchError: they cannot be made.
    """

    def make() -> None:
        _run("networks", sys.executable, "-m", "benchmarks.peers.make_networks", "--output", str(folder), *arguments)

    _once(folder, " ".join(arguments), make)
    notes: dict[str, Any] = json.loads((folder / "networks.json").read_text(encoding="utf-8"))
    return notes


def _once(folder: Path, made_of: str, make: Callable[[], None]) -> None:
    """Nothing half-made is taken for whole: the note of what it is made of is written last."""
    done = folder / _DONE
    if done.is_file() and done.read_text(encoding="utf-8") == made_of:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make()
    done.write_text(made_of, encoding="utf-8")


def _run(what: str, *command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise PeerMissing(
            f"{what}: `{' '.join(command[1:5])} …` ended with exit code {done.returncode}: {lines[-1] if lines else 'it said nothing'}"
        )
    return done.stdout
