"""Where a Triton lies, in the PyPI wheel or in the official container, and whether its parts are fit. Starts no server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import InstallationError

FOLDER_VARIABLE = "HISTOSERVE_TRITON"
FOLDER_NAME = ".triton"
CONTAINER_FOLDER = Path("/opt/tritonserver")  # of every official image
SERVING_FOLDER = Path(__file__).resolve().parent

Lane = Literal["wheel", "container"]
# What the served steps import; the container brings ONNX Runtime as a backend of its own.
NEEDED_PACKAGES: dict[Lane, tuple[str, ...]] = {
    "wheel": ("nvidia-pytriton", "numpy", "onnxruntime", "pillow", "scipy"),
    "container": ("numpy", "pillow", "scipy"),
}
_REMEDY: dict[Lane, str] = {"wheel": "run make setup again", "container": "build docker/triton.Dockerfile, whose PATH starts with its own"}

# Run by the stub's own interpreter, which embeds nothing of ours.
_PROBE = """
import json, sysconfig
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
names = ("nvidia-pytriton", "numpy", "onnxruntime", "openvino", "pillow", "scipy")
print(json.dumps({
    "python": sysconfig.get_python_version(), "packages": sysconfig.get_path("platlib"),
    "libdir": sysconfig.get_config_var("LIBDIR"), "libpython": sysconfig.get_config_var("INSTSONAME"),
    "versions": {name: version(name) for name in names},
}))
"""


@dataclass(frozen=True)
class TritonInstall:
    """An installation as its interpreter describes it; `check_install` says whether it is fit.

    Attributes:
        folder: the virtual environment, or the container's /opt/tritonserver.
        packages: the interpreter's site-packages.
        python_version: e.g. "3.11"; chooses the stub.
        libpython_folder: what the stub loads libpython from.
        lane: how the folder is laid out.
        python: the interpreter that the stub finds by PATH; its environment is the python steps'. None = that of `folder`.
        libpython: its shared library's file name; another name means that it has none.
        versions: of the packages that matter, None where one is not there.
        image_libraries: LD_LIBRARY_PATH of the container, where its CUDA and its backends lie.
    """

    folder: Path
    packages: Path
    python_version: str
    libpython_folder: Path
    lane: Lane = "wheel"
    python: Path | None = None
    libpython: str = ""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    image_libraries: str = ""

    @property
    def server(self) -> Path:
        return self._triton / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        """Those that came with the server."""
        return self._triton / "backends"

    @property
    def python_backend(self) -> Path:
        return self.backends / "python"

    @property
    def stub(self) -> Path:
        name = "triton_python_backend_stub"
        in_wheel = self._triton / "python_backend_stubs" / self.python_version / name
        return in_wheel if self.lane == "wheel" else self.python_backend / name

    @property
    def library_path(self) -> str:
        """LD_LIBRARY_PATH of the server; the wheel bundles every library but libpython."""
        if self.lane == "wheel":
            return f"{self.packages / 'nvidia_pytriton.libs'}:{self.libpython_folder}"
        return ":".join(part for part in (str(self.folder / "lib"), self.image_libraries) if part)

    @property
    def python_folder(self) -> Path:
        """What comes first on the server's PATH."""
        return self.folder / "bin" if self.python is None else self.python.parent

    @property
    def _triton(self) -> Path:
        return self.packages / "pytriton" / "tritonserver" if self.lane == "wheel" else self.folder


def find_install(environment: Mapping[str, str] = os.environ) -> TritonInstall:
    """Locate and check the installation: see `locate`, `check_install`.

    Raises:
        InstallationError: none is there, or the one found cannot serve.
    """
    install = describe(*locate(environment), environment)
    check_install(install)
    return install


def locate(environment: Mapping[str, str] = os.environ) -> tuple[Path, Lane]:
    """$HISTOSERVE_TRITON, else .triton of the working directory, else that of the source tree, else the container's own.

    Raises:
        InstallationError: none is there.
    """
    chosen = environment.get(FOLDER_VARIABLE)
    usual = [Path.cwd() / FOLDER_NAME, SERVING_FOLDER.parent / FOLDER_NAME, CONTAINER_FOLDER]
    candidates = [Path(chosen)] if chosen else usual
    for folder in candidates:
        if (folder / "bin" / "tritonserver").exists():
            return folder.absolute(), "container"
        if (folder / "bin" / "python").exists():
            return folder.absolute(), "wheel"
    looked = " and ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise InstallationError(f"Triton: expected its environment in {looked}, found none: run make setup, or name it in ${FOLDER_VARIABLE}")


def describe(folder: Path, lane: Lane, environment: Mapping[str, str] = os.environ) -> TritonInstall:
    """Ask the stub's interpreter what is in its environment; judges nothing.

    Raises:
        InstallationError: the interpreter does not run, or there is none.
    """
    python = folder / "bin" / "python" if lane == "wheel" else _python_on_path(folder, environment)
    probe = _probe(folder, python)
    return TritonInstall(
        folder=folder,
        packages=Path(probe["packages"]),
        python_version=probe["python"],
        libpython_folder=Path(probe["libdir"] or ""),
        lane=lane,
        python=python,
        libpython=str(probe["libpython"]),
        versions=probe["versions"],
        image_libraries=environment.get("LD_LIBRARY_PATH", "") if lane == "container" else "",
    )


def check_install(install: TritonInstall) -> None:
    """Refuse an installation that cannot serve, or would serve wrong values.

    Raises:
        InstallationError: a part is missing, or numpy is 2 or later, with which tensors arrive silently wrong.
    """
    check_versions(install)
    check_libpython(install)
    check_files(install)


def check_versions(install: TritonInstall) -> None:
    """Refuse an environment that lacks a package or holds a numpy that falsifies tensors."""
    needed, remedy = NEEDED_PACKAGES[install.lane], _REMEDY[install.lane]
    missing = sorted(name for name in needed if install.versions.get(name) is None)
    if missing:
        raise InstallationError(f"{install.folder}: expected the packages {', '.join(needed)}, lacks {', '.join(missing)}: {remedy}")
    check_numpy(install)


def check_numpy(install: TritonInstall) -> None:
    version = install.versions.get("numpy")
    if version is not None and int(version.split(".")[0]) >= 2:
        raise InstallationError(
            f"{install.folder}: expected numpy < 2, found {version}, with which this Triton's tensors arrive silently wrong: "
            f"{_REMEDY[install.lane]}"
        )


def check_libpython(install: TritonInstall) -> None:
    """The stub embeds the interpreter as a library."""
    if install.lane == "container":
        return  # the image's loader finds its own; LIBDIR says another folder than Debian's multiarch one
    if not install.libpython.startswith("libpython") or not (install.libpython_folder / install.libpython).exists():
        raise InstallationError(
            f"{install.folder}: expected an interpreter with a shared libpython in {install.libpython_folder}, found none "
            f"({install.libpython}): Triton's Python backend loads it; make {FOLDER_NAME} with a Python built with --enable-shared"
        )


def check_files(install: TritonInstall) -> None:
    for path in (install.server, install.python_backend, install.stub):
        if not path.exists():
            raise InstallationError(
                f"{install.folder}: expected {path}, found none: Python {install.python_version} may have no stub here; "
                f"{_REMEDY[install.lane]}"
            )


def _python_on_path(folder: Path, environment: Mapping[str, str]) -> Path:
    found = shutil.which("python3", path=environment.get("PATH"))
    if found is None:
        raise InstallationError(f"{folder}: expected a python3 on PATH for the python steps, found none: {_REMEDY['container']}")
    return Path(found)


def _probe(folder: Path, python: Path) -> dict[str, Any]:
    try:
        done = subprocess.run([str(python), "-I", "-c", _PROBE], capture_output=True, text=True, check=True, timeout=60)
        answer: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, json.JSONDecodeError) as error:
        reason = getattr(error, "stderr", None) or error
        raise InstallationError(
            f"{folder}: expected an environment whose interpreter runs, it fails: {reason}: run make setup again"
        ) from error
    return answer
