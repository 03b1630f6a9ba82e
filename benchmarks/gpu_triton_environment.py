"""An environment for Triton's stubs out of a wheel of Triton and one of ONNX Runtime that somebody gives, made once. Starts nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.triton_install import SERVING_FOLDER

from .gpu_lanes import LaneMissing

_DONE = ".done"
_OWN_WHEELS = ("onnxruntime", "openvino")  # of the requirements: one is given, the other is not measured here
_CUDA_PACKAGES = "[cuda,cudnn]"  # what a GPU's wheel of ONNX Runtime loads; a CPU's wheel knows no such extras
_ALIAS = "Metadata-Version: 2.1\nName: onnxruntime\nVersion: {version}\n"


def make_environment(folder: Path, triton_wheel: Path, onnxruntime_wheel: Path) -> Path:
    """The folder as `serving.triton_install` wants it. What else is needed comes by pip, as it is set up here (PIP_FIND_LINKS, PIP_NO_INDEX).

    Raises:
        LaneMissing: a wheel is not there, or pip cannot install it; with its words.
    """
    for flag, wheel in (("--triton-wheel", triton_wheel), ("--onnxruntime-wheel", onnxruntime_wheel)):
        if not wheel.is_file():
            raise LaneMissing(f"{flag} {wheel}: expected a wheel, found no such file")
    made_of = f"{triton_wheel.resolve()} {onnxruntime_wheel.resolve()}"
    done = folder / _DONE
    if done.is_file() and done.read_text(encoding="utf-8") == made_of:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(folder))
    pip = (str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet")
    _run(*pip, "--no-deps", str(triton_wheel))
    requirements = read_requirements(SERVING_FOLDER / "embedded-requirements.txt")
    _run(*pip, *requirements, f"{onnxruntime_wheel}{_CUDA_PACKAGES}")
    name_onnxruntime(folder)
    done.write_text(made_of, encoding="utf-8")
    return folder


def read_requirements(path: Path) -> list[str]:
    """What Triton's stubs need beside the given wheels."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and line.partition("==")[0] not in _OWN_WHEELS]


def name_onnxruntime(folder: Path) -> None:
    """Say that the package `onnxruntime` is here where a distribution of another name brought it, as those for GPUs do: `serving` asks for the name.

    Raises:
        LaneMissing: there is none of any name.
    """
    (packages,) = folder.glob("lib/python*/site-packages")
    found = sorted(packages.glob("onnxruntime*.dist-info"))
    if not found:
        raise LaneMissing(f"{folder}: expected ONNX Runtime out of its wheel, found none: give another --onnxruntime-wheel")
    name, _, version = found[0].name.removesuffix(".dist-info").partition("-")
    if name != "onnxruntime":
        alias = packages / f"onnxruntime-{version}.dist-info"
        alias.mkdir()
        (alias / "METADATA").write_text(_ALIAS.format(version=version), encoding="utf-8")


def _run(*command: str) -> None:
    _require_end(command, subprocess.run(command, capture_output=True, text=True, check=False))


def _require_end(command: Sequence[str], done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
        raise LaneMissing(f"{' '.join(command[1:4])} … ended with exit code {done.returncode}: {said[-1]}")
