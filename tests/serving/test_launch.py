"""The installation, the room it needs and the command line, without starting a server."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serving.errors import InstallationError, PortError
from serving.launch import SHM_BYTES, Identity, launch_command, launch_environment, require_shared_memory
from serving.port import free_port, require_free
from serving.triton_install import TritonInstall, check_versions, find_install
from serving.view import View

from .tiny_release import configs

FIT: dict[str, str | None] = {"nvidia-pytriton": "0.7.0", "numpy": "1.26.4", "onnxruntime": "1.31.1", "scipy": "1.17.1"}
INSTALL = TritonInstall(Path("/env"), Path("/env/packages"), "3.11", Path("/python/lib"))


def test_missing_installation_says_make_setup(tmp_path: Path) -> None:
    with pytest.raises(InstallationError, match=f"expected its environment in {tmp_path / '.triton'}, found none: run make setup"):
        find_install({"HISTOSERVE_TRITON": str(tmp_path / ".triton")})


def test_a_broken_interpreter_is_an_installation_error(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(InstallationError, match="interpreter runs, it fails: broken"):
        find_install({"HISTOSERVE_TRITON": str(tmp_path)})


def test_numpy_2_and_missing_packages_are_refused() -> None:
    check_versions(Path("/env"), FIT)
    with pytest.raises(InstallationError, match=r"expected numpy < 2, found 2\.4\.6, .* silently wrong: run make setup"):
        check_versions(Path("/env"), {**FIT, "numpy": "2.4.6"})
    with pytest.raises(InstallationError, match="lacks onnxruntime, scipy"):
        check_versions(Path("/env"), {**FIT, "scipy": None, "onnxruntime": None})


@pytest.mark.triton
def test_every_flag_exists_in_the_installed_server(triton: TritonInstall) -> None:
    """An unknown flag ends the server."""
    done = subprocess.run(
        [triton.server, "--help"], env={"LD_LIBRARY_PATH": triton.library_path}, capture_output=True, text=True, check=False
    )
    known = {word for line in (done.stdout + done.stderr).splitlines() for word in line.split()[:1] if word.startswith("--")}
    command = launch_command(triton, View(Path("/view")), Identity("id", "secret", "shm_"), 8001)
    used = {word.split("=")[0] for word in command[1:]}
    assert used <= known


def test_the_server_is_shut_to_the_outside() -> None:
    command = launch_command(INSTALL, View(Path("/view")), Identity("id", "secret", "shm_"), 8001)
    assert {"--grpc-address=127.0.0.1", "--allow-http=false", "--allow-metrics=false", "--allow-vertex-ai=false"} <= set(command)
    (restricted,) = (flag for flag in command if "restricted" in flag)
    protocols, secret = restricted.split("=", 1)[1].split(":")
    assert secret == "admin=secret"
    assert set(protocols.split(",")) == {"shared-memory", "model-repository", "statistics", "trace", "logging"}


def test_another_python_does_not_leak_into_the_server() -> None:
    inherited = {
        "PATH": "/usr/bin",
        "HOME": "/home/u",
        "PYTHONHOME": "/x",
        "LD_PRELOAD": "x.so",
        "VIRTUAL_ENV": "/v",
        "AIP_MODE": "PREDICTION",
    }
    environment = launch_environment(INSTALL, inherited)
    assert environment["PATH"] == "/env/bin:/usr/bin"
    assert environment["LD_LIBRARY_PATH"] == "/env/packages/nvidia_pytriton.libs:/python/lib"
    assert environment["HOME"] == "/home/u"
    assert not {"PYTHONHOME", "LD_PRELOAD", "VIRTUAL_ENV", "AIP_MODE"} & set(environment)


def test_too_little_shared_memory_is_refused() -> None:
    """Three stubs and room for one of them to grow."""
    require_shared_memory(configs(), 4 * SHM_BYTES)
    with pytest.raises(InstallationError, match=r"expected 256 MB free for 3 model instances, found 64 MB: .*--shm-size=1g"):
        require_shared_memory(configs(), SHM_BYTES)


def test_ports_are_checked() -> None:
    assert 1024 <= require_free(free_port()) <= 65535
    for port in (0, -1, 65536):
        with pytest.raises(PortError, match=f"port {port}: expected 1…65535"):
            require_free(port)
