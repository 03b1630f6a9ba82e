"""`histoserve serve` as a user meets it: lines and exit codes."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.cli import main, reach, warn
from serving.command import run
from serving.errors import RepositoryError, ServingError
from serving.exposure import Exposure
from serving.triton_install import SERVING_FOLDER

from . import tiny_release as tiny
from .processes import wait_until, with_word

SERVE = "import sys; from serving.cli import main; sys.exit(main(sys.argv[1:]))"


def test_a_known_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise RepositoryError("models: expected a\nfolder")

    assert run("histoserve serve", fail, (ServingError,)) == 1
    assert capsys.readouterr().err == "histoserve serve: models: expected a folder\n"


def test_an_unknown_error_keeps_its_traceback() -> None:
    def fail() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("histoserve serve", fail, (ServingError,))


def test_the_exit_code_is_the_calls_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("histoserve serve", lambda: 0, ()) == 0
    assert capsys.readouterr().err == ""


def test_interrupted(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert run("histoserve serve", interrupted, ()) == 130
    assert capsys.readouterr().err == "histoserve serve: interrupted\n"


def test_wrong_usage_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--prot", "8001"])
    assert caught.value.code == 2
    assert "prot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repository", "nowhere"], "nowhere: expected a model repository, found no such folder"),
        (["--model", "lung_segment"], "expected the model 'lung_segment', found none of that name; it has tiny_"),
    ],
)
def test_missing_things_are_one_line(repository: Path, arguments: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVE, "--repository", str(repository), *arguments],
        cwd=SERVING_FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("histoserve serve: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--address", "0.0.0.0"], "expected --tls-cert"),
        (["--address", "nowhere"], "expected an IPv4 address"),
        (["--tls-key", "key.pem"], "expected --tls-cert with it"),
        (["--http-port", "8001"], "got it twice"),
        (["--metrics-address", "0.0.0.0"], "expected a --metrics-port"),
    ],
)
def test_a_wrong_exposure_is_wrong_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_the_embedded_triton_on_a_network_is_one_line(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain metrics on every address: no TLS to ask for, and still refused for the version."""
    assert main(["--repository", str(repository), "--metrics-port", "8002", "--metrics-address", "0.0.0.0"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("histoserve serve: Triton 2.51.0: expected at least 2.71 (container 26.07) for a network")
    assert error.count("\n") == 1


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_what_an_exposure_opens_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    warn(Exposure())
    assert capsys.readouterr().err == ""
    warn(Exposure(address="0.0.0.0", insecure=True))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("histoserve serve: warning: gRPC on 0.0.0.0 in plain text")
    assert "10 bulletins of published holes" in lines[1]


def test_who_can_call_is_said() -> None:
    tls: dict[str, Any] = {"tls_cert": Path("c"), "tls_key": Path("k")}
    own: dict[str, Any] = {"tls_client_ca": Path("a"), "tls_own_cert": Path("o"), "tls_own_key": Path("p")}
    assert reach(Exposure()) == "gRPC, this machine only"
    assert reach(Exposure(**tls)) == "gRPC with TLS, this machine only"
    assert reach(Exposure(address="10.0.0.5", insecure=True)) == "gRPC, plain text, on 10.0.0.5"
    assert reach(Exposure(address="10.0.0.5", **tls)) == "gRPC, TLS, on 10.0.0.5"
    assert reach(Exposure(address="10.0.0.5", **tls, **own)) == "gRPC, mutual TLS, on 10.0.0.5"


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_port_in_use_is_one_line(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", SERVE, "--repository", str(repository), "--port", str(port)]
        done = subprocess.run(command, cwd=SERVING_FOLDER.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"histoserve serve: port {port} on 127.0.0.1 is in use by another process: stop that, or choose another --port\n"


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serves_every_entry_until_a_signal(repository: Path, free_tcp_port: int, signum: signal.Signals) -> None:
    command = [sys.executable, "-c", SERVE, "--repository", str(repository), "--port", str(free_tcp_port)]
    with subprocess.Popen(command, cwd=SERVING_FOLDER.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        assert serving.stderr is not None
        assert serving.stdout.readline().startswith(f"{tiny.ENTRY}: ready at 127.0.0.1:{free_tcp_port} ")
        serving.send_signal(signum)
        assert serving.wait(30) == 0
        assert serving.stderr.read() == ""
    assert wait_until(lambda: not with_word(f"--grpc-port={free_tcp_port}"))
