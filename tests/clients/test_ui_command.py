"""`histoserve ui` as a user or `histoserve serve --ui` starts it: flags, refusals, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from clients.ui.command import is_loopback, main
from serving.port import free_port

from .token_triton import TOKEN, WholeModelWithToken

ROOT = Path(__file__).parents[2]
AWAY = ("--server", "127.0.0.1:9")


@contextmanager
def running(port: int, *flags: str) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """The page as a process, up inside the block, with its standard input and output."""
    server = () if "--server" in flags else AWAY
    command = [sys.executable, "-m", "clients.ui", *server, "--port", str(port), *flags]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == f"histoserve ui: the page is at http://127.0.0.1:{port}\n"
            yield process, process.stdin, process.stdout
        finally:
            process.kill()


def message(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.replace("│", "").split())


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--address", "0.0.0.0"], "--address 0.0.0.0: expected a loopback address such as 127.0.0.1: the page has no passwords"),
        (["--address", "10.1.2.3"], "expected a loopback address"),
        (["--address", "localhost.evil.example"], "expected a loopback address"),
        (["--slides", "nowhere"], "--slides nowhere: expected a folder of slides"),
        (["--server", "gpu"], '--server gpu: expected "host:port", several of them with commas between'),
        (["--port", "0"], "--port 0: expected 1…65535"),
        (["--model", "a", "--repository", "."], "--model, --repository: expected one of them, got both"),
        (["--repository", "nowhere"], "--repository nowhere: expected a model repository, found no such folder"),
        (["--headers", "nowhere"], "--headers nowhere: expected a file of lines `name: value`, cannot read it"),
        (["--tls-ca", "nowhere.pem"], "--tls-ca nowhere.pem: expected a PEM file"),
    ],
)
def test_wrong_usage_exits_2_with_the_reason(flags: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*AWAY, "--check", *flags])
    assert caught.value.code == 2
    assert told in message(capsys)


def test_a_check_starts_nothing() -> None:
    assert main([*AWAY, "--check"]) == 0


@pytest.mark.parametrize(
    ("address", "is_one"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("localhost", False)],
)
def test_loopback(address: str, is_one: bool) -> None:
    assert is_loopback(address) is is_one


def test_a_missing_package_names_the_extra() -> None:
    script = "import sys; sys.modules['aiohttp'] = None; from clients.ui.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", script, *AWAY], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "histoserve ui: needs the package 'aiohttp': pip install 'histoserve[ui]'\n"


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main([*AWAY, "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"histoserve ui: port {port} on 127.0.0.1: expected a free port, got Address already in use")
    assert error.count("\n") == 1


def test_it_ends_with_its_standard_input() -> None:
    """So a server that is killed leaves no page behind."""
    port = free_port()
    with running(port, "--until-stdin-ends") as (process, stdin, _):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert b"<title>histoserve</title>" in page.read()
        stdin.close()
        assert process.wait(30) == 0


def test_the_headers_of_the_file_are_sent(tmp_path: Path) -> None:
    (tmp_path / "headers").write_text(f"authorization: {TOKEN}\n")
    port = free_port()
    with WholeModelWithToken() as server:
        flags = ["--server", server.address, "--model", "painted", "--headers", str(tmp_path / "headers")]
        with running(port, *flags) as (process, _, _), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/models") as answer:
            assert [model["name"] for model in json.load(answer)["models"]] == ["painted"]
            assert TOKEN not in Path(f"/proc/{process.pid}/cmdline").read_text()


def test_a_browser_that_leaves_while_it_sends_leaves_nothing_in_the_log() -> None:
    port = free_port()
    with running(port) as (process, _, stdout):
        with socket.create_connection(("127.0.0.1", port)) as left:
            left.sendall(f"POST /api/image?model=default HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 99\r\n\r\nhalf".encode())
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert page.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert stdout.read() == ""


def test_a_signal_ends_it_quietly() -> None:
    with running(free_port()) as (process, _, stdout):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert stdout.read() == ""
