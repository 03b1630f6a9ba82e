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


def int8_networks(folder: Path, networks: Path, slide: Path, max_miou_loss: float) -> dict[str, Any]:
    """The network in int8 (`benchmarks/peers/make_int8.py`) beside those that are there, calibrated on the slide; made anew where any of it is another.

    Returns:
        The figures that export's gate let it through with.

    Raises:
        PeerMissing: export's gate refused it, with its figures; or it cannot be made.
    """

    def make() -> None:
        where = ["--networks", str(networks), "--slide", str(slide), "--output", str(folder), "--max-miou-loss", str(max_miou_loss)]
        _run("int8", sys.executable, "-m", "benchmarks.peers.make_int8", *where)

    _once(folder, f"{(networks / _DONE).read_text(encoding='utf-8')} on {slide.resolve()}, {max_miou_loss:g} points", make)
    notes = json.loads((folder / "int8.json").read_text(encoding="utf-8"))
    if notes["refused"] is not None:
        raise PeerMissing(f"{notes['refused']} (judged once: remove {folder} to have it judged again, or see --int8-max-miou-loss)")
    gate: dict[str, Any] = notes["gate"]
    return gate


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
