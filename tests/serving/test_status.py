"""What a server's counters become, who may read them, and `histoserve serve --status` on the real one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tritonclient.grpc as grpcclient
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from serving.canary import ask
from serving.contract import LABELS
from serving.errors import StartError, StatusError
from serving.status import ModelCounters, Snapshot, from_dict, rates, to_dict
from serving.status_socket import StatusSocket, read_status, socket_path
from serving.status_view import as_view
from serving.supervisor import Restart
from serving.triton_install import SERVING_FOLDER

from . import tiny_release as tiny
from .serving_process import SERVE, serving

STEP = ModelCounters("m_net", "step", "", 10, 1, 80, 4, 2.0, 1.0, 0.8, "2026-01-01T00:00:00+00:00")
ENTRY = ModelCounters("m_segment", "entry", "m_r1_segment", 5, 0, 40, 0, 3.0, 0.0, 0.0, None)


def snapshot(time_s: float, *models: ModelCounters, restarts: tuple[Restart, ...] = ()) -> Snapshot:
    return Snapshot(time_s, "127.0.0.1:8001", "2.51.0", "ready", models, restarts)


def test_rates_between_two_moments() -> None:
    later = dataclasses.replace(STEP, requests=30, failures=3, tiles=240, batches=14, request_s=8.0, queue_s=5.0, batch_s=2.8)
    (rate,) = rates(snapshot(100.0, STEP), snapshot(102.0, later))
    assert (rate.requests_per_s, rate.failures_per_s, rate.tiles_per_s) == (10, 1, 80)
    assert rate.mean_batch == 16
    assert rate.waiting == 2  # 4 s waited in 2 s
    assert [rate.queue_ms, rate.request_ms, rate.batch_ms] == pytest.approx([200, 300, 200])


def test_nothing_happened_is_no_average() -> None:
    (rate,) = rates(snapshot(1.0, ENTRY), snapshot(2.0, ENTRY))
    assert (rate.requests_per_s, rate.mean_batch, rate.queue_ms, rate.batch_ms) == (0, None, None, None)


def test_counters_begin_anew_after_a_restart() -> None:
    restarted = dataclasses.replace(STEP, requests=2, failures=0, tiles=16, batches=1, queue_s=0.1)
    (rate,) = rates(snapshot(1.0, STEP), snapshot(2.0, restarted))
    assert (rate.requests_per_s, rate.tiles_per_s, rate.failures_per_s) == (2, 16, 0)


@given(st.integers(0, 10**9), st.floats(0, 1e6), st.text(max_size=20))
def test_a_snapshot_survives_json(count: int, seconds: float, reason: str) -> None:
    model = dataclasses.replace(STEP, tiles=count, queue_s=seconds)
    before = snapshot(seconds, model, ENTRY, restarts=(Restart("2026-01-01", reason, seconds),))
    assert from_dict(json.loads(json.dumps(to_dict(before)))) == before


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return socket_path("127.0.0.1", 8001)


def test_the_socket_answers_its_user_and_leaves_nothing(path: Path) -> None:
    wanted = snapshot(1.0, STEP)
    socket = StatusSocket(path, lambda: wanted)
    socket.open()
    assert read_status(path) == read_status(path) == wanted
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    socket.close()
    assert not path.parent.exists()
    with pytest.raises(StatusError, match="expected a running `histoserve serve` of this user"):
        read_status(path)


def test_a_dead_server_s_socket_is_replaced(path: Path) -> None:
    script = f"import os; from pathlib import Path; from serving.status_socket import StatusSocket; StatusSocket(Path({str(path)!r}), lambda: None).open(); os._exit(0)"
    subprocess.run([sys.executable, "-c", script], cwd=SERVING_FOLDER.parent, check=True)
    assert path.exists()
    socket = StatusSocket(path, lambda: snapshot(2.0))
    socket.open()
    assert read_status(path).time_s == 2
    socket.close()


def test_a_folder_that_others_can_enter_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o755)
    path.parent.chmod(0o755)
    with pytest.raises(StatusError, match="expected a folder that only this user can enter"):
        StatusSocket(path, lambda: snapshot(1.0)).open()


def test_the_reason_why_there_is_no_state_arrives(path: Path) -> None:
    def fail() -> Snapshot:
        raise StartError("it was given up")

    socket = StatusSocket(path, fail)
    socket.open()
    with pytest.raises(StatusError, match="it says: it was given up"):
        read_status(path)
    socket.close()


def test_the_view_shows_entries_numbers_and_restarts() -> None:
    before = snapshot(1.0, ENTRY, STEP)
    after = snapshot(2.0, dataclasses.replace(ENTRY, requests=12, tiles=96), STEP, restarts=(Restart("noon", "the stub died", 2.5),))
    console = Console(width=150, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 (it lives as long as the console)
    console.print(as_view(after, rates(before, after)))
    shown = console.export_text()
    console.file.close()
    assert "127.0.0.1:8001: Triton 2.51.0, ready" in shown
    assert "m_segment → m_r1_segment" in shown
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("m_segment ") and "entry" in line)
    assert row[:5] == ["m_segment", "entry", "7.0", "0.0", "56.0"]
    assert "noon: the stub died (back after 2.5 s)" in shown


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_status_of_a_real_server(repository: Path) -> None:
    with serving(repository) as served:
        with grpcclient.InferenceServerClient(served.address) as client:
            for count in (1, 4, 7):
                ask(client, tiny.ENTRY, tiny.random_tiles(count, seed=count), (LABELS,))
        raw = json.loads(status(served.port, repository.parent, "--json").stdout)
        found = {model["name"]: model for model in raw["models"]}
        assert raw["state"] == "ready"
        assert (found[tiny.ENTRY]["kind"], found[tiny.ENTRY]["release"]) == ("entry", tiny.RELEASE)
        assert (found[tiny.ENTRY]["requests"], found[tiny.ENTRY]["tiles"]) == (3, 12)
        step = found[tiny.NET]  # the canary at the start: one request of two tiles
        assert (step["requests"], step["tiles"], step["batches"]) == (4, 14, 4)
        assert 0 < step["batch_s"] < 60
        assert step["queue_s"] > 0
        assert {rate["name"] for rate in raw["rates"]} == set(found)
        live = [sys.executable, "-c", SERVE, "--status", "--port", str(served.port)]
        environment = os.environ | {"XDG_RUNTIME_DIR": str(repository.parent)}
        with subprocess.Popen(live, cwd=SERVING_FOLDER.parent, env=environment, stdout=subprocess.PIPE, text=True) as watching:
            time.sleep(4)  # a second after the command has started it shows the first rates
            watching.send_signal(signal.SIGINT)
            shown = watching.communicate(timeout=20)[0]
        assert watching.returncode == 0
        assert f"{tiny.ENTRY} → {tiny.RELEASE}" in shown
        os.kill(served.triton.pid, signal.SIGKILL)
        served.wait_for("ready again")
        (restart,) = json.loads(status(served.port, repository.parent, "--json").stdout)["restarts"]
        assert restart["reason"] == "the server process ended: it ended by SIGKILL"
    gone = status(served.port, repository.parent, "--json")
    assert (gone.returncode, gone.stdout) == (1, "")
    assert "expected a running `histoserve serve`" in gone.stderr


def status(port: int, runtime: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SERVE, "--status", "--port", str(port), *arguments],
        cwd=SERVING_FOLDER.parent,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        text=True,
        check=False,
    )
