"""The page beside a server: how it is started, what stops it before Triton starts, and what is told of its end."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from serving.cli import main
from serving.errors import PageError
from serving.exposure import Exposure
from serving.port import free_port
from serving.triton_install import SERVING_FOLDER
from serving.ui_process import UiOptions, UiProcess, ui_command

from .processes import wait_until

# Stands in for the page: obeys --check, writes its pid, ends with its standard input.
PAGE = "import os, pathlib, sys; '--check' in sys.argv and sys.exit(0); pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); sys.stdin.read()"


def page_that(script: str, path: Path) -> list[str]:
    return [sys.executable, "-c", script, str(path)]


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_it_ends_with_the_block(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with UiProcess(page_that(PAGE, file), free_port()) as page:
        assert wait_until(lambda: file.exists() and bool(file.read_text()))
        pid = int(file.read_text())
        assert is_alive(pid)
        assert page.fault() is None
        assert os.getpgid(pid) != os.getpgid(0)  # Ctrl-C reaches the server alone
    assert not is_alive(pid)


def test_its_own_end_is_told_once(tmp_path: Path) -> None:
    script = "import sys; sys.exit(0 if '--check' in sys.argv else 3)"
    told: list[str] = []

    def is_told() -> bool:
        fault = page.fault()
        told.extend([] if fault is None else [fault])
        return bool(told)

    with UiProcess(page_that(script, tmp_path), free_port()) as page:
        assert wait_until(is_told)
        assert page.fault() is None
    assert told == ["the page for people ended with code 3; the server goes on without it: start serve anew to have it back"]


def test_what_the_check_says_is_the_error(tmp_path: Path) -> None:
    script = "import sys; sys.exit('it lacks a thing')"
    with pytest.raises(PageError, match="--ui: it lacks a thing"):
        UiProcess(page_that(script, tmp_path), free_port())


def test_a_taken_port_is_told_with_its_flag(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PageError, match=f"--ui-port {port}: expected a free port"):
            UiProcess(page_that(PAGE, tmp_path / "pid"), port)


def test_a_missing_extra_is_one_line_before_triton_starts(repository: Path, tmp_path: Path) -> None:
    """The package is hidden by one of its name that is not there."""
    (tmp_path / "aiohttp.py").write_text("raise ModuleNotFoundError(\"No module named 'aiohttp'\", name='aiohttp')")
    script = "import sys; from serving.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "--repository", str(repository), "--port", str(free_port())]
    command += ["--ui", "--ui-port", str(free_port())]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=SERVING_FOLDER.parent, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "histoserve serve: --ui: histoserve ui: needs the package 'aiohttp': pip install 'histoserve[ui]'\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ui-slides", "slides"], "--ui-slides slides: expected --ui with it"),
        (["--ui", "--ui-port", "8001"], "--ui-port 8001: expected a port of its own"),
        (["--ui", "--ui-port", "8002", "--metrics-port", "8002"], "--ui-port 8002: expected a port of its own"),
    ],
)
def test_wrong_usage(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())


def test_the_command_of_a_plain_server() -> None:
    command = ui_command(UiOptions(ui=True, ui_port=8095, ui_slides=Path("slides")), "127.0.0.1:8001", ["a_segment", "a_cam"], Exposure())
    assert command == [
        *(sys.executable, "-m", "clients.ui", "--server", "127.0.0.1:8001", "--port", "8095", "--model", "a_segment", "a_cam"),
        *("--slides", str(Path.cwd() / "slides")),
    ]


def test_the_command_of_a_server_that_follows_its_repository() -> None:
    command = ui_command(UiOptions(ui=True), "127.0.0.1:8001", Path("model_repository"), Exposure())
    assert command[-2:] == ["--repository", str(Path.cwd() / "model_repository")]


def test_certificates_are_handed_on_where_they_name_the_address(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    for name, host in (("here", "127.0.0.1"), ("there", "gpu.example"), ("own", "caller")):
        pair = authority.issue_cert(host)
        pair.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        pair.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))

    def exposure(name: str) -> Exposure:
        own: dict[str, Any] = {
            "tls_client_ca": tmp_path / "ca.pem",
            "tls_own_cert": tmp_path / "own.pem",
            "tls_own_key": tmp_path / "own.key",
        }
        return Exposure(tls_cert=tmp_path / f"{name}.pem", tls_key=tmp_path / f"{name}.key", **own)

    options = UiOptions(ui=True)
    handed = ui_command(options, "127.0.0.1:8001", ["a_segment"], exposure("here"))[-6:]
    assert handed == ["--tls-ca", f"{tmp_path}/here.pem", "--tls-cert", f"{tmp_path}/own.pem", "--tls-key", f"{tmp_path}/own.key"]
    with pytest.raises(PageError, match=r"also names 127\.0\.0\.1, .*there\.pem names gpu\.example: add that to it"):
        ui_command(options, "127.0.0.1:8001", ["a_segment"], exposure("there"))
