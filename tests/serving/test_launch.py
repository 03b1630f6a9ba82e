"""The installation, what its binary says of itself, the room it needs and the command line."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from serving.embedded import EmbeddedTriton
from serving.errors import InstallationError, PortError
from serving.exposure import Exposure
from serving.launch import SHM_BYTES, Identity, launch_command, launch_environment, left_out, require_shared_memory
from serving.port import free_port, require_free
from serving.triton_binary import Binary, parse_flags, parse_version, probe_binary
from serving.triton_install import SERVING_FOLDER, TritonInstall, check_install, check_versions, describe, find_install, locate
from serving.view import View

from . import tiny_release as tiny
from .tiny_release import configs

FIT: dict[str, str | None] = {"nvidia-pytriton": "0.7.0", "numpy": "1.26.4", "onnxruntime": "1.31.1", "pillow": "13.0.0", "scipy": "1.17.1"}
INSTALL = TritonInstall(Path("/env"), Path("/env/packages"), "3.11", Path("/python/lib"), versions=FIT)
CONTAINER = TritonInstall(
    Path("/opt/tritonserver"),
    Path("/steps/packages"),
    "3.12",
    Path("/usr/lib"),
    "container",
    Path("/steps/bin/python3"),
    image_libraries="/cuda",
)
VIEW = View(Path("/view"))
IDENTITY = Identity("id", "secret", "shm_")
# By the research (serving.md §1.0), not by a binary: the flags that 26.xx has beyond those of 2.51. The tests add them to the real ones.
NEWER_FLAGS = {"--allow-client-shm", "--grpc-infer-thread-count", "--grpc-max-response-pool-size", "--http-max-input-size"}


@pytest.fixture(scope="module")
def binary(triton: TritonInstall) -> Binary:
    return probe_binary(triton)


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
    check_versions(INSTALL)
    with pytest.raises(InstallationError, match=r"expected numpy < 2, found 2\.4\.6, .* silently wrong: run make setup"):
        check_versions(dataclasses.replace(INSTALL, versions={**FIT, "numpy": "2.4.6"}))
    with pytest.raises(InstallationError, match="lacks onnxruntime, scipy"):
        check_versions(dataclasses.replace(INSTALL, versions={**FIT, "scipy": None, "onnxruntime": None}))


def test_the_container_brings_its_own_onnx_runtime() -> None:
    check_versions(dataclasses.replace(CONTAINER, versions={"numpy": "1.26.4", "pillow": "13.0.0", "scipy": "1.17.1"}))
    with pytest.raises(InstallationError, match=r"lacks pillow, scipy: build docker/triton\.Dockerfile"):
        check_versions(dataclasses.replace(CONTAINER, versions={"numpy": "1.26.4"}))
    with pytest.raises(InstallationError, match=r"expected numpy < 2, found 2\.4\.6"):
        check_versions(dataclasses.replace(CONTAINER, versions={"numpy": "2.4.6", "pillow": "13.0.0", "scipy": "1.17.1"}))


@pytest.mark.triton
def test_the_installed_binary_says_what_it_is(binary: Binary) -> None:
    assert binary.version[:2] == (2, 51)
    assert {"--grpc-restricted-protocol", "--backend-config", "--help", "--id"} <= binary.flags
    assert left_out(binary) == ["--allow-client-shm", "--grpc-infer-thread-count", "--grpc-max-response-pool-size"]


@pytest.mark.parametrize("text", ["", "Segmentation fault\n", "Usage: frobnicate\n  --model\n"])
def test_a_help_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InstallationError, match=r"expected its flags, got .*: run make setup again"):
        parse_flags(text)


def test_a_log_without_a_version_is_refused() -> None:
    assert parse_version("| server_id | x |\n| server_version                   | 2.51.0    |\n") == (2, 51, 0)
    with pytest.raises(InstallationError, match="expected server_version in its log, got 'cannot open shared object'"):
        parse_version("cannot open shared object\n\n")


def test_a_binary_that_is_none(tmp_path: Path) -> None:
    install = dataclasses.replace(CONTAINER, folder=tmp_path)
    with pytest.raises(InstallationError, match="expected Triton's binary, found none"):
        probe_binary(install)
    install.server.parent.mkdir()
    install.server.write_text("no program")
    install.server.chmod(0o755)
    with pytest.raises(InstallationError, match="expected a binary that runs here, it fails"):
        probe_binary(install)


@pytest.mark.triton
@pytest.mark.parametrize(
    "exposure",
    [
        Exposure(),
        Exposure(http_port=8000, metrics_port=8002),
        Exposure(
            address="10.0.0.5",
            tls_cert=Path("c"),
            tls_key=Path("k"),
            tls_client_ca=Path("a"),
            tls_own_cert=Path("o"),
            tls_own_key=Path("p"),
        ),
    ],
)
def test_only_flags_of_the_installed_binary_are_passed(triton: TritonInstall, binary: Binary, exposure: Exposure) -> None:
    """An unknown flag ends the server."""
    assert names(launch_command(triton, VIEW, IDENTITY, 8001, exposure)) <= binary.flags


@pytest.mark.triton
@pytest.mark.parametrize(("address", "shared_memory"), [("127.0.0.1", "true"), ("10.0.0.5", "false")])
def test_newer_servers_get_their_flags(triton: TritonInstall, binary: Binary, address: str, shared_memory: str) -> None:
    """Shared memory is for callers on this machine alone: `segment` with a server of its own sends its tiles that way."""
    exposure = Exposure(address=address, http_port=8000, insecure=True)
    newer = Binary((2, 75, 0), binary.flags | NEWER_FLAGS)
    added = set(launch_command(triton, VIEW, IDENTITY, 8001, exposure, newer)) - set(
        launch_command(triton, VIEW, IDENTITY, 8001, exposure, binary)
    )
    assert added == {
        f"--allow-client-shm={shared_memory}",
        "--grpc-infer-thread-count=8",
        "--grpc-max-response-pool-size=64",
        "--http-max-input-size=67108864",
    }


@pytest.mark.triton
def test_tracing_is_off_unless_asked_for(triton: TritonInstall, binary: Binary) -> None:
    assert "--trace-config" not in names(launch_command(triton, VIEW, IDENTITY, 8001, Exposure(), binary))
    traced = launch_command(triton, VIEW, IDENTITY, 8001, Exposure(trace_otlp="http://otel:4318/v1/traces"), binary)
    assert [flag.split("=", 1)[1] for flag in traced if flag.startswith("--trace-config")] == [
        "mode=opentelemetry",
        "opentelemetry,url=http://otel:4318/v1/traces",
        "opentelemetry,resource=service.name=histoserve",
        "rate=1000",
        "level=TIMESTAMPS",
    ]


@pytest.mark.triton
@pytest.mark.parametrize("flag", ["--grpc-restricted-protocol", "--model-control-mode", "--grpc-address", "--allow-http"])
def test_a_binary_without_a_lock_is_refused(triton: TritonInstall, binary: Binary, flag: str) -> None:
    with pytest.raises(InstallationError, match=f"expected a Triton that knows {flag}, 2.51.0 does not"):
        launch_command(triton, VIEW, IDENTITY, 8001, Exposure(), Binary(binary.version, binary.flags - {flag}))


@pytest.mark.triton
def test_the_server_is_shut_to_the_outside(triton: TritonInstall) -> None:
    command = launch_command(triton, VIEW, IDENTITY, 8001)
    assert {
        "--grpc-address=127.0.0.1",
        "--allow-http=false",
        "--allow-metrics=false",
        "--allow-vertex-ai=false",
        "--allow-sagemaker=false",
        "--model-control-mode=none",
    } <= set(command)
    (restricted,) = (flag for flag in command if "restricted" in flag)
    protocols, secret = restricted.split("=", 1)[1].split(":")
    assert secret == "admin=secret"
    assert set(protocols.split(",")) == {"shared-memory", "model-repository", "statistics", "trace", "logging"}


@pytest.mark.triton
def test_what_is_opened_is_opened_where_asked(binary: Binary) -> None:
    exposure = Exposure(http_port=8000, metrics_port=8002, metrics_address="10.0.0.5", reloadable=True)
    command = set(launch_command(CONTAINER, VIEW, IDENTITY, 8001, exposure, binary))
    assert {"--allow-http=true", "--http-address=127.0.0.1", "--http-port=8000", "--allow-metrics=true"} <= command
    assert {"--metrics-address=10.0.0.5", "--metrics-port=8002", "--model-control-mode=explicit", "--load-model=*"} <= command
    (restricted,) = (flag for flag in command if flag.startswith("--http-restricted-api="))
    assert restricted.endswith(":admin=secret")


@pytest.mark.triton
def test_certificates_are_named_by_their_whole_path(binary: Binary) -> None:
    """The server stands in an empty folder of its own."""
    exposure = Exposure(address="0.0.0.0", tls_cert=Path("c.pem"), tls_key=Path("k.pem"))
    command = launch_command(CONTAINER, VIEW, IDENTITY, 8001, exposure, binary)
    assert f"--grpc-server-cert={Path.cwd() / 'c.pem'}" in command
    assert f"--grpc-server-key={Path.cwd() / 'k.pem'}" in command
    assert "--grpc-use-ssl=true" in command
    assert "--grpc-use-ssl-mutual=true" not in command


@pytest.mark.triton
def test_the_container_serves_with_its_own_backends(triton: TritonInstall, binary: Binary) -> None:
    assert "--backend-directory=/opt/tritonserver/backends" in launch_command(CONTAINER, VIEW, IDENTITY, 8001, None, binary)
    assert "--backend-directory=/view/backends" in launch_command(triton, VIEW, IDENTITY, 8001)


def test_another_python_does_not_leak_into_the_server() -> None:
    inherited = {
        "PATH": "/usr/bin",
        "HOME": "/home/u",
        "PYTHONHOME": "/x",
        "LD_PRELOAD": "x.so",
        "VIRTUAL_ENV": "/v",
        "AIP_MODE": "PREDICTION",
        "CUDA_VISIBLE_DEVICES": "3",
    }
    environment = launch_environment(INSTALL, inherited)
    assert environment["PATH"] == "/env/bin:/usr/bin"
    assert environment["LD_LIBRARY_PATH"] == "/env/packages/nvidia_pytriton.libs:/python/lib"
    assert environment["HOME"] == "/home/u"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert not {"PYTHONHOME", "LD_PRELOAD", "VIRTUAL_ENV", "AIP_MODE"} & set(environment)


def test_the_container_keeps_its_gpu_and_its_libraries() -> None:
    environment = launch_environment(CONTAINER, {"PATH": "/usr/bin", "CUDA_VISIBLE_DEVICES": "3", "LD_LIBRARY_PATH": "/cuda"})
    assert environment["PATH"] == "/steps/bin:/usr/bin"
    assert environment["LD_LIBRARY_PATH"] == "/opt/tritonserver/lib:/cuda"
    assert environment["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.triton
def test_a_folder_laid_out_as_the_container_serves(
    triton: TritonInstall, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel's binary in the container's places: the lane that no container engine here can show."""
    folder = lay_out_as_container(triton, tmp_path / "tritonserver")
    monkeypatch.setenv("HISTOSERVE_TRITON", str(folder))
    monkeypatch.setenv("PATH", str(triton.python_folder), prepend=":")
    monkeypatch.setenv("LD_LIBRARY_PATH", triton.library_path)
    install = find_install()
    assert (install.lane, install.folder) == ("container", folder)
    assert install.python == triton.python_folder / "python3"
    with EmbeddedTriton(repository, [tiny.ENTRY]) as server:  # its canary compares values
        server.require_running()


def lay_out_as_container(triton: TritonInstall, folder: Path) -> Path:
    (folder / "bin").mkdir(parents=True)
    shutil.copy(triton.server, folder / "bin" / "tritonserver")
    shutil.copytree(triton.python_backend, folder / "backends" / "python")
    shutil.copy(triton.stub, folder / "backends" / "python")
    ours = folder / "backends" / "onnxruntime"
    shutil.copytree(folder / "backends" / "python", ours)
    shutil.copytree(SERVING_FOLDER / "backends" / "onnxruntime", ours, dirs_exist_ok=True)
    return folder


@pytest.mark.triton
def test_a_container_without_python_or_stub(triton: TritonInstall, tmp_path: Path) -> None:
    folder = lay_out_as_container(triton, tmp_path / "tritonserver")
    environment = {"HISTOSERVE_TRITON": str(folder), "PATH": "/nowhere"}
    assert locate(environment) == (folder, "container")
    with pytest.raises(InstallationError, match="expected a python3 on PATH for the python steps, found none"):
        describe(*locate(environment), environment)
    install = describe(folder, "container", {"PATH": str(triton.python_folder)})
    check_install(install)
    install.stub.unlink()
    with pytest.raises(InstallationError, match=f"expected {install.stub}, found none"):
        check_install(install)


@pytest.mark.triton
def test_an_unknown_flag_ends_the_server(triton: TritonInstall) -> None:
    """Why flags are asked for at all."""
    flag = min(NEWER_FLAGS)
    environment = {"LD_LIBRARY_PATH": triton.library_path}
    done = subprocess.run([triton.server, f"{flag}=false"], env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode != 0
    assert f"unrecognized option '{flag}=false'" in done.stdout + done.stderr


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
    with pytest.raises(PortError, match=r"192\.0\.2\.1: expected an address of this machine, it is none"):
        require_free(free_port(), "192.0.2.1")


def names(command: list[str]) -> set[str]:
    return {word.split("=")[0] for word in command[1:]}
