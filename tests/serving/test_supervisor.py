"""When a supervisor restarts, waits and gives up; what a canary watch calls a fault; and all of it on the real server under load."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import InferenceServerException

from clients.served_model import ServedModel
from serving.canary import ask
from serving.canary_watch import CanaryWatch, Progress
from serving.contract import BACKGROUND, PROBABILITIES
from serving.embedded import EmbeddedTriton
from serving.errors import CanaryError, ServingError, StartError
from serving.port import free_port
from serving.processes import read_process, server_of, stubs_of
from serving.restarts import RestartBudget, Supervision
from serving.sockets import listeners
from serving.supervisor import Supervisor
from serving.triton_install import SERVING_FOLDER

from . import tiny_release as tiny
from .processes import wait_until, with_word
from .serving_process import SERVE, serving

QUICK = Supervision(poll_s=0.01, restarts=3, waits_s=(0.0,))


class Sick:
    """A server with a list of faults; a restart fails as often as it is told to."""

    def __init__(self, faults: list[str], failing: int = 0) -> None:
        self.faults, self.failing = faults, failing
        self.restarts = self.tended = 0

    def fault(self) -> str | None:
        return self.faults.pop(0) if self.faults else None

    def tend(self) -> None:
        self.tended += 1

    def restart(self, give_up: threading.Event) -> None:
        self.restarts += 1
        if self.restarts <= self.failing:
            raise StartError(f"start {self.restarts} failed")

    def failure(self, what: str) -> StartError:
        return StartError(what)


def test_each_fault_is_one_restart_with_its_reason() -> None:
    sick = Sick(["the stub died", "the server died"])
    supervisor = Supervisor(sick, QUICK)
    supervisor.start()
    assert wait_until(lambda: sick.tended > 2)
    supervisor.require_running()
    supervisor.stop()
    assert [restart.reason for restart in supervisor.history] == ["the stub died", "the server died"]
    assert sick.restarts == 2


def test_gives_up_with_the_last_reason() -> None:
    sick = Sick(["the server died"], failing=99)
    supervisor = Supervisor(sick, QUICK)
    supervisor.start()
    assert wait_until(lambda: is_given_up(supervisor))
    with pytest.raises(StartError, match=r"given up after 3 restarts within 10 min; the last reason: the restart failed: start 3 failed"):
        supervisor.require_running()
    supervisor.stop()
    assert sick.restarts == 3
    assert supervisor.history == []


def test_a_stop_does_not_wait_for_the_next_restart() -> None:
    sick = Sick(["the server died"])
    supervisor = Supervisor(sick, Supervision(poll_s=0.01, waits_s=(3600.0,)))
    supervisor.start()
    assert wait_until(lambda: not sick.faults)
    supervisor.stop()
    assert sick.restarts == 0


def is_given_up(supervisor: Supervisor) -> bool:
    try:
        supervisor.require_running()
    except ServingError:
        return True
    return False


@given(st.lists(st.floats(0, 300), max_size=40), st.integers(0, 6))
def test_never_more_restarts_within_the_window(gaps_s: list[float], restarts: int) -> None:
    supervision = Supervision(restarts=restarts, within_s=600)
    budget, now_s, taken = RestartBudget(supervision), 0.0, []
    for gap_s in gaps_s:
        now_s += gap_s
        if budget.take(now_s) is not None:
            taken.append(now_s)
    for time_s in taken:
        assert sum(time_s <= other < time_s + 600 for other in taken) <= restarts


def test_waits_grow_and_the_window_slides() -> None:
    budget = RestartBudget(Supervision(restarts=3, within_s=100, waits_s=(0, 7)))
    assert [budget.take(now) for now in (0, 10, 20, 30)] == [(1, 0), (2, 7), (3, 7), None]
    assert budget.take(100) == (3, 7)


@pytest.mark.parametrize(
    "values", [{"poll_s": 0}, {"within_s": -1}, {"restarts": -1}, {"waits_s": ()}, {"waits_s": (-1.0,)}, {"canary_failures": 0}]
)
def test_an_absurd_supervision_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="supervision: expected"):
        Supervision(**values)


class Watched:
    """A release whose canary does as it is told, under a clock that is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.finished, self.first_finished = 0, 0
        self.error: CanaryError | None = None
        self.releases = ["r1"]
        self.answers = threading.Event()
        self.asked = 0
        supervision = Supervision(canary_every_s=30, canary_answer_s=60, canary_failures=2)
        self.watch = CanaryWatch(supervision, lambda: self.releases, self.ask, lambda release: self.progress(), lambda: self.now_s)
        assert self.watch.fault() is None

    def progress(self) -> Progress:
        return Progress({"step": self.first_finished, "last": self.finished}, frozenset({"step"}))

    def ask(self, release: str) -> None:
        self.asked += 1
        self.answers.wait(20)
        if self.error is not None:
            raise self.error

    def after(self, seconds: float) -> str | None:
        """Turn the clock, let the canary be asked, and judge what is there."""
        self.now_s += seconds
        asked = self.asked
        fault = self.watch.fault()
        if fault is None and self.watch._questions:
            assert wait_until(lambda: self.asked > asked or not self.answers.is_set())
        return fault

    def judged(self) -> str | None:
        """What becomes of the canary on its way, once it has its answer."""
        self.answers.set()
        (question,) = self.watch._questions.values()
        assert question.done.wait(20)
        return self.watch.fault()


def test_a_canary_is_asked_when_it_is_due() -> None:
    watched = Watched()
    assert watched.after(29) is None
    assert watched.asked == 0
    assert watched.after(1) is None
    assert watched.judged() is None
    assert watched.asked == 1


def test_one_wrong_answer_is_asked_again_and_two_are_a_fault() -> None:
    watched = Watched()
    watched.error = CanaryError("wrong values")
    watched.after(30)
    assert watched.judged() is None
    watched.after(1)  # not after another 30 s
    assert watched.judged() == "2 canaries in a row failed: wrong values"


def test_a_right_answer_in_between_makes_the_count_begin_anew() -> None:
    watched = Watched()
    for error in (CanaryError("wrong"), None, CanaryError("wrong")):
        watched.error = error
        watched.after(31)
        assert watched.judged() is None


def test_a_full_queue_is_no_fault() -> None:
    watched = Watched()
    watched.error = CanaryError("the canary's request failed")
    watched.error.__cause__ = InferenceServerException("Exceeds maximum queue size")
    for _ in range(3):
        watched.after(30)
        assert watched.judged() is None


def test_silence_is_a_fault_only_where_nobody_is_answered() -> None:
    watched = Watched()
    watched.after(30)
    watched.finished = watched.first_finished = 1  # another's request: the server is busy, the canary waits its turn
    assert watched.after(60) is None
    assert watched.after(59) is None
    assert watched.after(1) == "model 'r1': no answer to the canary for 60 s, nor to any other request"
    watched.answers.set()


def test_a_silent_first_step_is_a_fault_though_the_others_answer_others() -> None:
    watched = Watched()
    watched.after(30)
    watched.finished = 9
    assert watched.after(60) == "model 'r1': no answer to the canary for 60 s, since step finishes nothing"
    watched.answers.set()


def test_a_first_step_that_has_done_its_part_may_rest_while_the_canary_waits() -> None:
    watched = Watched()
    watched.after(30)
    watched.first_finished = 1  # the canary's own
    for finished in range(3):
        watched.finished = finished
        assert watched.after(60) is None
    assert watched.after(60) == "model 'r1': no answer to the canary for 60 s, nor to any other request"
    watched.answers.set()


def test_the_silence_of_a_release_that_was_retired_is_no_fault() -> None:
    watched = Watched()
    watched.after(30)
    watched.releases.clear()
    assert watched.after(60) is None
    watched.answers.set()


def test_a_release_that_is_silent_holds_up_no_other() -> None:
    silent, asked = threading.Event(), list[str]()

    def ask(release: str) -> None:
        asked.append(release)
        if release == "r1":
            silent.wait(20)
        raise CanaryError(f"{release} is wrong")

    now_s = [0.0]
    watch = CanaryWatch(
        Supervision(canary_every_s=30), lambda: ["r1", "r2"], ask, lambda release: Progress({}, frozenset()), lambda: now_s[0]
    )
    assert watch.fault() is None
    now_s[0] = 30.0
    reasons = [watch.fault()]
    while not any(reasons) and len(reasons) < 400:
        now_s[0] += 0.1
        time.sleep(0.01)
        reasons.append(watch.fault())
    assert reasons[-1] == "2 canaries in a row failed: r2 is wrong"
    assert sorted(asked) == ["r1", "r2", "r2"]
    silent.set()


def test_a_process_is_seen_until_it_ends() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        seen = read_process(child.pid)
        assert seen is not None
        assert seen.parent == os.getpid()
        child.kill()
        assert wait_until(lambda: read_process(child.pid) is None)  # a zombie has ended, though nobody asked for it yet
    assert read_process(child.pid) is None


class Load:
    """A retrying client that streams until it is told to stop, and checks every answer."""

    def __init__(self, address: str) -> None:
        self.answered = 0
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address,))

    def __enter__(self) -> Self:
        self._thread.start()
        assert wait_until(lambda: self.answered > 3 or self.error is not None)
        return self

    def __exit__(self, *details: object) -> None:
        before = self.answered
        wait_until(lambda: self.answered > before + 8 or self.error is not None, 60)
        self._stop.set()
        self._thread.join(60)
        assert self.error is None
        assert self.answered > before + 8

    def _batches(self) -> Iterator[tuple[int, tiny.Tiles]]:
        number = 0
        while not self._stop.wait(0.02):
            yield number, tiny.random_tiles(3, seed=number)
            number += 1

    def _run(self, address: str) -> None:
        try:
            with ServedModel(address, tiny.ENTRY) as client:
                for number, outputs in client.stream(self._batches(), in_flight=4):
                    assert number == self.answered
                    np.testing.assert_array_equal(outputs[PROBABILITIES], tiny.net_probabilities(tiny.random_tiles(3, seed=number)))
                    self.answered += 1
        except BaseException as error:  # noqa: BLE001 (told by the test, in its own thread)
            self.error = error


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_kills_under_load_lose_nothing(repository: Path) -> None:
    """A stub, the server and its watchdog die by kill -9; the client gets every answer, right and in order, at the same address."""
    with EmbeddedTriton(repository, [tiny.ENTRY], supervision=Supervision(waits_s=(0.0,))) as server, Load(server.address):
        address, headers = server.address, server.admin_headers
        victims: list[tuple[Callable[[], int], str]] = [
            (lambda: stubs_of(triton_of(server))[0].pid, "the python stub of tiny_r1_"),
            (lambda: triton_of(server), "it ended by SIGKILL"),
            (lambda: server.pid, "it ended without a word"),
        ]
        for count, (victim, reason) in enumerate(victims, start=1):
            os.kill(victim(), signal.SIGKILL)
            assert wait_until(lambda count=count: len(server.restarts) == count, 60)  # type: ignore[misc]
            assert reason in server.restarts[-1].reason
            assert server.restarts[-1].recovery_s > 0
        assert (server.address, server.admin_headers) == (address, headers)
        found = [listener for listener in listeners() if listener.pid == triton_of(server)]
        assert [str(listener.port) for listener in found] == [address.split(":")[1]]
        assert all(listener.is_loopback for listener in found)


def triton_of(server: EmbeddedTriton) -> int:
    found = server_of(server.pid)
    assert found is not None
    return found.pid


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_serve_prints_reason_and_recovery_time_and_gives_up_with_1(repository: Path) -> None:
    with serving(repository, "--restarts", "1") as served:
        os.kill(served.stub(tiny.RULE_STEP).pid, signal.SIGKILL)
        reason = served.wait_for("restart 1 of 1 within 10 min")
        assert f"the python stub of {tiny.RULE_STEP} ended; Triton does not start it again" in reason
        assert float(served.wait_for("ready again after").split()[-2]) > 0
        os.kill(served.triton.pid, signal.SIGKILL)
        last = served.wait_for("given up after 1 restarts within 10 min; the last reason: the server process ended: it ended by SIGKILL")
        assert served.process.wait(60) == 1
    Path(last.split("(its log: ")[1].rstrip(")")).unlink()
    assert wait_until(lambda: not with_word(f"--grpc-port={served.port}"))


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_a_frozen_server_is_found_by_its_canary(repository: Path) -> None:
    """SIGSTOP: every process is there, nobody is answered."""
    supervision = Supervision(canary_every_s=0.5, canary_answer_s=3.0)
    with EmbeddedTriton(repository, [tiny.ENTRY], supervision=supervision) as server:
        os.kill(triton_of(server), signal.SIGSTOP)
        assert wait_until(lambda: len(server.restarts) == 1, 60)
        assert "no answer to the canary for 3 s" in server.restarts[0].reason


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_finish_and_refuses_what_is_new(repository: Path, signum: signal.Signals) -> None:
    step = repository / tiny.RULE_STEP / "1" / "model.py"
    step.write_text(
        step.read_text().replace("def execute(self, requests):", "def execute(self, requests):\n        __import__('time').sleep(4)")
    )
    with serving(repository) as served:
        answers: list[tiny.Tiles] = []
        tiles = tiny.random_tiles(2, seed=1)

        caller = threading.Thread(target=lambda: answers.append(background_of(served.address, tiles)))
        caller.start()
        time.sleep(1.5)  # the request is in the slow step
        served.process.send_signal(signum)
        time.sleep(0.5)
        with pytest.raises(CanaryError, match=r"Server is stopping|no available versions|connect"):
            background_of(served.address, tiles)
        caller.join(30)
        np.testing.assert_array_equal(answers[0], tiny.background(tiles))
        assert served.process.wait(60) == 0


def background_of(address: str, tiles: tiny.Tiles) -> tiny.Tiles:
    with grpcclient.InferenceServerClient(address) as client:
        return ask(client, tiny.RULE_STEP, tiles, (BACKGROUND,))[BACKGROUND]


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("moment", ["before the start", "while it serves"])
def test_full_shared_memory(repository: Path, moment: str) -> None:
    """In a mount namespace of its own /dev/shm is small, or becomes full; the reason is told and the exit code is 1."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode or shutil.which("mount") is None:
        pytest.skip("a mount namespace needs rights that are not here")
    size = "200M" if moment == "before the start" else "300M"
    command = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {sys.executable} -c '{SERVE}' --repository {repository} --restarts 1"
    environment = os.environ | {"XDG_RUNTIME_DIR": str(repository.parent)}
    port = free_port()
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"{command} --port {port}"],
        cwd=SERVING_FOLDER.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        if moment == "while it serves":
            assert "ready at" in process.stdout.readline()
            fill = Path(f"/proc/{process.pid}/root/dev/shm/filled by the test")
            with pytest.raises(OSError, match="No space left"):
                fill.write_bytes(bytes(400 * 2**20))
            (triton,) = (pid for pid, line in with_word(f"--grpc-port={port}").items() if "bin/tritonserver" in line.split()[0])
            os.kill(triton, signal.SIGKILL)
        told = process.stdout.read()
        assert process.wait(60) == 1
    assert "/dev/shm: expected 256 MB free for 3 model instances, found" in told
    assert "docker run --shm-size=1g" in told
