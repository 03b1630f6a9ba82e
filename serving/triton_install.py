"""Where the Triton binary of the PyPI wheel lies and whether its environment is fit. Starts no server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InstallationError

FOLDER_VARIABLE = "HISTOSERVE_TRITON"
FOLDER_NAME = ".triton"
SERVING_FOLDER = Path(__file__).resolve().parent

# Run by the installation's own interpreter, which embeds nothing of ours.
_PROBE = """
import json, sysconfig
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
names = ("nvidia-pytriton", "numpy", "onnxruntime", "scipy")
print(json.dumps({
    "python": sysconfig.get_python_version(), "packages": sysconfig.get_path("platlib"),
    "libdir": sysconfig.get_config_var("LIBDIR"), "libpython": sysconfig.get_config_var("INSTSONAME"),
    "versions": {name: version(name) for name in names},
}))
"""


@dataclass(frozen=True)
class TritonInstall:
    """A checked installation.

    Attributes:
        folder: the virtual environment.
        packages: its site-packages.
        python_version: e.g. "3.11"; chooses the stub.
        libpython_folder: what the stub loads libpython from.
    """

    folder: Path
    packages: Path
    python_version: str
    libpython_folder: Path

    @property
    def server(self) -> Path:
        return self._triton / "bin" / "tritonserver"

    @property
    def python_backend(self) -> Path:
        return self._triton / "backends" / "python"

    @property
    def stub(self) -> Path:
        return self._triton / "python_backend_stubs" / self.python_version / "triton_python_backend_stub"

    @property
    def library_path(self) -> str:
        """LD_LIBRARY_PATH of the server; the wheel bundles every library but libpython."""
        return f"{self.packages / 'nvidia_pytriton.libs'}:{self.libpython_folder}"

    @property
    def _triton(self) -> Path:
        return self.packages / "pytriton" / "tritonserver"


def find_install(environment: Mapping[str, str] = os.environ) -> TritonInstall:
    """Locate and check the installation: $HISTOSERVE_TRITON, else .triton of the working directory, else that of the source tree.

    Raises:
        InstallationError: none is there, or the one found cannot serve.
    """
    chosen = environment.get(FOLDER_VARIABLE)
    candidates = [Path(chosen)] if chosen else [Path.cwd() / FOLDER_NAME, SERVING_FOLDER.parent / FOLDER_NAME]
    for folder in candidates:
        if (folder / "bin" / "python").exists():
            return check_install(folder.absolute())
    looked = " and ".join(str(folder) for folder in dict.fromkeys(candidates))
    raise InstallationError(f"Triton: expected its environment in {looked}, found none: run make setup, or name it in ${FOLDER_VARIABLE}")


def check_install(folder: Path) -> TritonInstall:
    """Ask the environment's own interpreter what is in it.

    Raises:
        InstallationError: a part is missing, or numpy is 2 or later, with which tensors arrive silently wrong.
    """
    probe = _probe(folder)
    check_versions(folder, probe["versions"])
    install = TritonInstall(folder, Path(probe["packages"]), probe["python"], Path(probe["libdir"] or ""))
    if not str(probe["libpython"]).startswith("libpython") or not (install.libpython_folder / probe["libpython"]).exists():
        raise InstallationError(
            f"{folder}: expected an interpreter with a shared libpython in {install.libpython_folder}, found none ({probe['libpython']}): "
            f"Triton's Python backend loads it; make {FOLDER_NAME} with a Python built with --enable-shared"
        )
    for path in (install.server, install.python_backend, install.stub):
        if not path.exists():
            raise InstallationError(
                f"{folder}: expected {path}, found none: Python {install.python_version} may have no stub in the wheel; run make setup again"
            )
    return install


def check_versions(folder: Path, versions: Mapping[str, str | None]) -> None:
    """Refuse an environment that lacks a package or holds a numpy that falsifies tensors."""
    missing = sorted(name for name, version in versions.items() if version is None)
    if missing:
        raise InstallationError(f"{folder}: expected the packages {', '.join(versions)}, lacks {', '.join(missing)}: run make setup again")
    numpy_version = str(versions["numpy"])
    if int(numpy_version.split(".")[0]) >= 2:
        raise InstallationError(
            f"{folder}: expected numpy < 2, found {numpy_version}, with which this Triton's tensors arrive silently wrong: run make setup again"
        )


def _probe(folder: Path) -> dict[str, Any]:
    command = [str(folder / "bin" / "python"), "-I", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        raise InstallationError(
            f"{folder}: expected an environment whose interpreter runs, it fails: {reason}: run make setup again"
        ) from error
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
