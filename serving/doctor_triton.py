"""Findings about the Triton installation: binary, version, flags, backends, stub and packages. Runs the binary only to ask it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from .advisories import LEAST_FOR_A_NETWORK, holes_text
from .errors import ExposureError, InstallationError
from .exposure import Exposure, check_version, warnings
from .findings import Finding, Question, failure, judged
from .launch import Identity, launch_command, left_out
from .modelconfig import Config, ModelConfig
from .triton_binary import Binary, probe_binary
from .triton_install import TritonInstall, check_files, check_libpython, check_numpy, check_versions, describe, locate
from .view import View

_OURS = "onnxruntime"  # the python-based backend that `view` adds in the wheel's lane


def examine_installation(question: Question, configs: Mapping[str, Config], environment: Mapping[str, str]) -> Iterator[Finding]:
    """Everything about the installation that `environment` leads to; one failure where there is none."""
    try:
        install = describe(*locate(environment), environment)
    except InstallationError as error:
        yield failure("Triton", error)
        return
    try:
        binary = probe_binary(install)
    except InstallationError as error:
        yield failure("Triton", error)
    else:
        yield Finding("Triton", "OK", f"{binary.version_text} of the {install.lane}, {install.server}")
        yield from _of_binary(question, install, binary)
    yield _backends(install, configs.values())
    yield judged("python stub", lambda: _stub(install))
    yield judged("numpy of the server", lambda: _numpy(install))
    yield judged("packages of the server", lambda: _packages(install))
    yield _engine(install)


def _of_binary(question: Question, install: TritonInstall, binary: Binary) -> Iterator[Finding]:
    yield judged("flags", lambda: _flags(question, install, binary))
    yield _holes(question.exposure, binary)


def _flags(question: Question, install: TritonInstall, binary: Binary) -> str:
    launch_command(install, View(Path("view")), Identity("", "", ""), question.port, question.exposure, binary)
    without = left_out(binary)
    return "all that are needed" + (f"; does without {', '.join(without)}" if without else "")


def _holes(exposure: Exposure, binary: Binary) -> Finding:
    """Published holes: a failure where a network would reach them, a warning where only this machine does."""
    try:
        check_version(exposure, binary.version)
    except ExposureError as error:
        return failure("published holes", error)
    holes = holes_text(binary.version)
    if not holes:
        return Finding("published holes", "OK", f"none known in {binary.version_text} by bulletin {LEAST_FOR_A_NETWORK.bulletin}")
    remedy = f"keep it on loopback; a network gets the container, at least {LEAST_FOR_A_NETWORK.container}"
    return Finding("published holes", "warning", f"{binary.version_text} has {holes}", remedy)


def examine_exposure(exposure: Exposure) -> Iterator[Finding]:
    """What a network would see; versions are `_holes`' part."""
    found = warnings(exposure, LEAST_FOR_A_NETWORK.fixed_in)
    if not found:
        yield Finding("exposure", "OK", "this machine only")
    for warning in found:
        yield Finding("exposure", "warning", warning, "see docker/README.md, Security")


def _backends(install: TritonInstall, configs: Iterable[Config]) -> Finding:
    found = {path.name for path in install.backends.glob("*") if path.is_dir()}
    shown = ", ".join(sorted(found)) or "none"
    if install.lane == "wheel":
        found |= {_OURS}
        shown += f" (and histoserve's own {_OURS})"
    lacking = {config.backend: config.name for config in configs if isinstance(config, ModelConfig) and config.backend not in found}
    if lacking:
        wanted = ", ".join(f"{backend} (for {model})" for backend, model in sorted(lacking.items()))
        return Finding(
            "backends", "failure", f"expected {wanted}, found {shown}", "serve it in the container, or export it for another backend"
        )
    return Finding("backends", "OK", shown)


def _stub(install: TritonInstall) -> str:
    check_files(install)
    check_libpython(install)
    library = "" if install.lane == "container" else f" with {install.libpython_folder / install.libpython}"
    return f"Python {install.python_version}{library}"


def _numpy(install: TritonInstall) -> str:
    check_numpy(install)
    version = install.versions.get("numpy")
    if version is None:
        raise InstallationError(f"{install.folder}: expected numpy < 2, found none: run make setup again")
    return version


def _packages(install: TritonInstall) -> str:
    check_versions(install)
    return ", ".join(f"{name} {version}" for name, version in install.versions.items() if version is not None)


def _engine(install: TritonInstall) -> Finding:
    if install.lane == "container":
        return Finding("engine", "OK", "the container's own ONNX Runtime and TensorRT backends")
    runtime, openvino = install.versions.get("onnxruntime"), install.versions.get("openvino")
    if runtime is None and openvino is None:
        return Finding("engine", "failure", "expected onnxruntime or openvino, found neither", "run make setup again")
    if openvino is None:
        found = f"ONNX Runtime {runtime}; no OpenVINO, with which networks on CPU are up to 1.7 times as fast"
        return Finding("engine", "warning", found, f"{install.folder / 'bin' / 'pip'} install openvino")
    return Finding("engine", "OK", f"OpenVINO {openvino}, ONNX Runtime {runtime}")
