"""The embedded Triton, for real: values, neighbors in a batch, refusals, and that nothing is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

import serving.port
import serving.service
import serving.view
from serving.canary import CANARY_FILE, ask
from serving.contract import BACKGROUND, LABELS, PROBABILITIES, Contract
from serving.embedded import EmbeddedTriton
from serving.errors import CanaryError, PortError, ServingError, StartError
from serving.restarts import Supervision
from serving.triton_install import SERVING_FOLDER, TritonInstall

from . import tiny_release as tiny
from .processes import wait_until, with_word

pytestmark = [pytest.mark.triton, pytest.mark.usefixtures("triton")]

REPO_ROOT = SERVING_FOLDER.parent


@pytest.mark.parametrize("model", [tiny.ENTRY, tiny.RELEASE])
@pytest.mark.parametrize("outputs", [(LABELS, PROBABILITIES), (LABELS,), (PROBABILITIES,)], ids="+".join)
def test_each_subset_of_the_outputs(client: grpcclient.InferenceServerClient, model: str, outputs: tuple[str, ...]) -> None:
    tiles = tiny.random_tiles(3, seed=1)
    served = ask(client, model, tiles, outputs)
    for name in outputs:
        np.testing.assert_array_equal(served[name], tiny.expected(tiles)[name])


def test_the_slide_model_answers_the_network_alone(client: grpcclient.InferenceServerClient) -> None:
    tiles = tiny.random_tiles(2, seed=2)
    served = ask(client, tiny.SLIDE, tiles, (PROBABILITIES,))
    np.testing.assert_array_equal(served[PROBABILITIES], tiny.net_probabilities(tiles))


@pytest.mark.parametrize("outputs", [(LABELS, PROBABILITIES), (LABELS,), (PROBABILITIES,)], ids="+".join)
def test_the_network_itself_answers_each_subset(client: grpcclient.InferenceServerClient, outputs: tuple[str, ...]) -> None:
    tiles = tiny.random_tiles(2, seed=2)
    expected = {LABELS: tiny.net_labels(tiles), PROBABILITIES: tiny.net_probabilities(tiles)}
    served = ask(client, tiny.NET, tiles, outputs)
    for name in outputs:
        np.testing.assert_array_equal(served[name], expected[name])


def test_the_background_step_is_the_rule(client: grpcclient.InferenceServerClient) -> None:
    tiles = tiny.random_tiles(5, seed=3)
    served = ask(client, tiny.RULE_STEP, tiles, (BACKGROUND,))[BACKGROUND]
    np.testing.assert_array_equal(served, tiny.background(tiles))
    assert 0 < served.mean() < 0.5  # both values occur, or the test could not fail


def test_full_batches_and_many_callers(client: grpcclient.InferenceServerClient) -> None:
    """Requests of different sizes meet in the batcher; each caller gets its own rows."""
    batches = [tiny.random_tiles(count, seed=count) for count in (64, 1, 7, 33, 2, 64, 5, 1)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda tiles: ask(client, tiny.ENTRY, tiles, (LABELS, PROBABILITIES)), batches))
    for tiles, served in zip(batches, answers, strict=True):
        for name, values in tiny.expected(tiles).items():
            np.testing.assert_array_equal(served[name], values)


def test_a_bad_request_fails_alone(server: EmbeddedTriton, client: grpcclient.InferenceServerClient) -> None:
    """Both requests are in one batch (the server's own count says so), the graph fails on it, and the good one is answered."""
    good, bad = tiny.random_tiles(2, seed=5), tiny.random_tiles(1, seed=6)
    bad[0, 0, 0, 0] = tiny.MAX_RED + 1
    before = batches_of(server, client, len(good) + len(bad))
    barrier = threading.Barrier(2)

    def call(tiles: tiny.Tiles) -> tiny.Tiles:
        barrier.wait()
        return ask(client, tiny.NET, tiles, (LABELS,))[LABELS]

    with ThreadPoolExecutor(2) as pool:
        for _ in range(100):  # on a busy machine one of them may come after the other is on its way
            good_answer, bad_answer = pool.submit(call, good), pool.submit(call, bad)
            np.testing.assert_array_equal(good_answer.result(), tiny.net_labels(good))
            with pytest.raises(CanaryError, match=r"(OpenVINO|ONNX Runtime): "):
                bad_answer.result()
            if batches_of(server, client, len(good) + len(bad)) == before + 1:
                return
    pytest.fail("the two requests never were in one batch")


def batches_of(server: EmbeddedTriton, client: grpcclient.InferenceServerClient, size: int) -> int:
    answer = client.get_inference_statistics(tiny.NET, headers=server.admin_headers)
    return sum(entry.compute_infer.count for entry in answer.model_stats[0].batch_stats if entry.batch_size == size)


def test_the_contract_is_open_and_the_admin_protocols_are_not(client: grpcclient.InferenceServerClient) -> None:
    config = client.get_model_config(tiny.ENTRY).config
    assert Contract.from_parameters({key: value.string_value for key, value in config.parameters.items()}) == tiny.contract()
    for call in (
        client.get_inference_statistics,
        client.get_model_repository_index,
        client.get_trace_settings,
        client.get_log_settings,
        client.get_system_shared_memory_status,
    ):
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            call()


def test_listens_on_loopback_alone(server: EmbeddedTriton) -> None:
    """No HTTP, no metrics: the one listening socket of the server is gRPC's on 127.0.0.1."""
    triton = next(pid for pid, line in with_word(f"--grpc-port={server.address.split(':')[1]}").items() if "bin/tritonserver" in line)
    inodes = {match[1] for fd in Path(f"/proc/{triton}/fd").iterdir() if (match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd)))}
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    assert [row.removeprefix("0000000000000000FFFF0000") for row in listening] == [f"0100007F:{int(server.address.split(':')[1]):04X}"]


def test_the_repository_stays_as_it_was(triton: TritonInstall, repository: Path) -> None:
    """Python's bytecode lands in the view: a release may be read-only, and is checked by its files' hashes."""
    before = sorted(repository.rglob("*"))
    with EmbeddedTriton(repository, [tiny.RULE_STEP]):
        pass
    assert sorted(repository.rglob("*")) == before


def test_a_release_keeps_its_own_rule(repository: Path) -> None:
    """The step imports the copy in its release, not the code that starts the server."""
    copy = repository / tiny.RULE_STEP / "1" / "serving" / "background.py"
    copy.write_text("import numpy as np\n\ndef background_mask(rgb, gray_above, min_size_px):\n    return np.ones(rgb.shape[:2], bool)\n")
    with EmbeddedTriton(repository, [tiny.RULE_STEP]) as server, grpcclient.InferenceServerClient(server.address) as client:
        assert ask(client, tiny.RULE_STEP, tiny.random_tiles(2, seed=9), (BACKGROUND,))[BACKGROUND].all()


def test_runs_from_a_folder_with_its_own_serving(triton: TritonInstall, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub has its working directory first on its path; it must not be the caller's."""
    foreign = repository.parent / "serving"
    foreign.mkdir()
    (foreign / "__init__.py").write_text("raise ImportError('the wrong package')")
    monkeypatch.chdir(foreign.parent)
    monkeypatch.setenv("HISTOSERVE_TRITON", str(triton.folder))
    with EmbeddedTriton(repository, [tiny.RULE_STEP]) as server:
        server.require_running()


def test_port_in_use(repository: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(PortError, match=f"port {port} on 127.0.0.1 is in use .* choose another --port"),
            EmbeddedTriton(repository, [tiny.RULE_STEP], port=port),
        ):
            pass


def test_port_taken_between_look_and_bind(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chosen port is refused by name; a free one is chosen anew. The other program on the port is never taken for ours."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(serving.service, "require_free", lambda wanted, host: wanted)
        with pytest.raises(PortError, match=f"port {port} on 127.0.0.1 is in use"), EmbeddedTriton(repository, [tiny.RULE_STEP], port=port):
            pass
        ports: Iterator[int] = iter([port, serving.port.free_port()])
        monkeypatch.setattr(serving.service, "free_port", lambda: next(ports))
        with EmbeddedTriton(repository, [tiny.RULE_STEP]) as server:
            assert server.address != f"127.0.0.1:{port}"


def test_a_corrupt_model_is_named(repository: Path, tmp_path: Path) -> None:
    (repository / tiny.NET / "1" / "model.onnx").write_bytes(b"not a graph")
    log = tmp_path / "triton.log"
    with pytest.raises(StartError) as caught, EmbeddedTriton(repository, [tiny.ENTRY], log_path=log):
        pass
    message = str(caught.value)
    assert f"model '{tiny.NET}'" in message
    assert str(repository / tiny.NET / "1" / "model.onnx") in message  # where the user has it, not the view's link
    assert f"its log: {log}" in message
    assert "failed to load" in log.read_text()


def test_wrong_values_are_found(repository: Path) -> None:
    """Another network under the release's name: ready by every status, wrong by value."""
    path = repository / tiny.RELEASE / CANARY_FILE
    tiles = tiny.random_tiles(2, seed=9)
    arrays = tiny.expected(tiles)
    arrays[PROBABILITIES] = arrays[PROBABILITIES] + np.uint8(2)
    np.savez(path, TILE=tiles, **arrays)  # type: ignore[arg-type]  # numpy's stub takes names for allow_pickle
    with (
        pytest.raises(CanaryError, match=f"'{tiny.RELEASE}': .*wrong values: PROBABILITIES .*by up to 2"),
        EmbeddedTriton(repository, [tiny.ENTRY]),
    ):
        pass
    path.unlink()
    with pytest.raises(CanaryError, match="found none: export the model again"), EmbeddedTriton(repository, [tiny.ENTRY]):
        pass


def test_stop_leaves_nothing(repository: Path) -> None:
    with EmbeddedTriton(repository, [tiny.RULE_STEP]) as server:
        (watchdog_line,) = (line for pid, line in with_word("watchdog.py").items() if pid == server.pid)
        folder, shm_prefix = watchdog_line.split()[-2:]
        assert with_word(folder)
        assert list(Path("/dev/shm").glob(f"{shm_prefix}*"))
    assert_nothing_left(folder, shm_prefix)
    with pytest.raises(ServingError, match="not running"):
        _ = server.address
    server.stop()


STARTER = """
import json, sys, time
from pathlib import Path
from serving.embedded import EmbeddedTriton
with EmbeddedTriton(Path(sys.argv[1]), [sys.argv[2]]) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("victim", ["starter", "watchdog"])
def test_kill_9_leaves_nothing(repository: Path, victim: str) -> None:
    """Neither Triton, nor its stubs, nor folder, nor shared memory outlive the process that started them."""
    command = [sys.executable, "-c", STARTER, str(repository), tiny.ENTRY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO_ROOT) as starter:
        assert starter.stdout is not None
        watchdog = int(starter.stdout.readline())
        folder, shm_prefix = with_word("watchdog.py")[watchdog].split()[-2:]
        assert len(with_word(folder)) == 5  # watchdog, tritonserver, three stubs
        os.kill(starter.pid if victim == "starter" else watchdog, signal.SIGKILL)
        assert wait_until(lambda: not with_word(folder))
        if victim == "watchdog":  # the starter cleans up then, when it ends in order
            starter.send_signal(signal.SIGINT)
        starter.wait(30)
    assert_nothing_left(folder, shm_prefix)


def assert_nothing_left(folder: str, shm_prefix: str) -> None:
    assert wait_until(lambda: not with_word(folder) and not Path(folder).exists())
    assert not list(Path("/dev/shm").glob(f"{shm_prefix}*"))


def test_a_killed_stub_does_not_hold_up_the_stop(repository: Path) -> None:
    """Triton 2.51 stays "ready" without its stub, waits for it at exit and leaks its shared memory."""
    with EmbeddedTriton(repository, [tiny.RULE_STEP]) as server:
        folder, shm_prefix = with_word("watchdog.py")[server.pid].split()[-2:]
        (stub,) = (pid for pid, line in with_word(folder).items() if "triton_python_backend_stub" in line.split()[0])
        os.kill(stub, signal.SIGKILL)
    assert_nothing_left(folder, shm_prefix)


def given_up(server: EmbeddedTriton) -> bool:
    try:
        server.require_running()
    except StartError:
        return True
    return False


def test_a_server_that_ends_by_itself_is_told(repository: Path) -> None:
    with EmbeddedTriton(repository, [tiny.RULE_STEP], supervision=Supervision(restarts=0)) as server:
        folder = with_word("watchdog.py")[server.pid].split()[-2]
        (triton,) = (pid for pid, line in with_word(folder).items() if "bin/tritonserver" in line.split()[0])
        os.kill(triton, signal.SIGKILL)
        assert wait_until(lambda: given_up(server))
        with pytest.raises(StartError, match=r"given up after 0 restarts within 10 min; .*: it ended by SIGKILL") as caught:
            server.require_running()
    match = re.search(r"its log: (.*)\)", str(caught.value))
    assert match is not None
    kept = Path(match[1])
    assert kept.parent == Path(tempfile.gettempdir())
    assert "Started GRPCInferenceService" in kept.read_text()
    kept.unlink()


@pytest.mark.parametrize("model", [tiny.RULE_STEP, tiny.NET])
def test_numpy_2_in_the_stub_is_refused(repository: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step's and the backend's own check, where the launcher's was not asked (a container, another installation)."""
    claim = "np.__version__ = '2.4.6'\n\n\nclass TritonPythonModel"
    folder = tmp_path / "serving"
    shutil.copytree(SERVING_FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (repository / tiny.RULE_STEP / "1" / "model.py", folder / "backends" / "onnxruntime" / "model.py"):
        path.write_text(path.read_text().replace("class TritonPythonModel", claim, 1))
    monkeypatch.setattr(serving.view, "SERVING_FOLDER", folder)
    with (
        pytest.raises(StartError, match=rf"'{model}'.*numpy 2\.4\.6 in the server's environment"),
        EmbeddedTriton(repository, [model], log_path=tmp_path / "triton.log"),
    ):
        pass
