"""What a new release changes, and the real server while releases are published, rolled back, broken and forgotten."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from clients.served_model import ServedModel
from serving.canary import CANARY_FILE, ask
from serving.check import check_repository
from serving.contract import PROBABILITIES
from serving.embedded import EmbeddedTriton
from serving.errors import RepositoryError
from serving.exposure import Exposure
from serving.modelconfig import FILE_NAME
from serving.processes import server_of
from serving.release_set import change, needed, retired_releases, unload_order
from serving.sockets import listeners

from . import tiny_release as tiny
from .next_release import enter, of_release, probabilities, write_release
from .processes import wait_until
from .serving_process import serving

RELOADABLE = Exposure(reloadable=True)
FIRST, SECOND = tiny.RELEASE, of_release(tiny.RELEASE, 2)


def test_a_new_release_is_loaded_from_its_steps_up_and_the_entry_last(repository: Path) -> None:
    served = check_repository(repository, [tiny.ENTRY])
    write_release(repository, 2)
    enter(repository, 2)
    found = change(served, check_repository(repository, [tiny.ENTRY]), [tiny.ENTRY])
    assert [config.name for config in found.entries] == [tiny.ENTRY]
    assert found.releases == [SECOND]
    names = [config.name for config in found.load]
    assert set(names[:3]) == {of_release(name, 2) for name in (tiny.NET, tiny.RULE_STEP, tiny.COMBINE)}
    assert set(names[3:]) == {SECOND, of_release(tiny.SLIDE, 2)}


def test_nothing_changes_where_nothing_is_published(repository: Path) -> None:
    served = check_repository(repository, [tiny.ENTRY])
    write_release(repository, 2)  # written, not entered
    found = change(served, check_repository(repository, [tiny.ENTRY]), [tiny.ENTRY])
    assert (found.load, found.entries) == ((), ())


def test_back_to_a_release_that_is_still_loaded_loads_nothing(repository: Path) -> None:
    first = check_repository(repository, [tiny.ENTRY])
    write_release(repository, 2)
    enter(repository, 2)
    served = first | check_repository(repository, [tiny.ENTRY])
    enter(repository, 1)
    found = change(served, check_repository(repository, [tiny.ENTRY]), [tiny.ENTRY])
    assert (found.load, found.releases) == ((), [FIRST])


def test_a_release_that_was_rewritten_is_refused(repository: Path) -> None:
    served = check_repository(repository, [tiny.ENTRY])
    path = repository / tiny.NET / FILE_NAME
    path.write_text(path.read_text().replace("max_queue_size: 64", "max_queue_size: 65"))
    with pytest.raises(RepositoryError, match=f"'{tiny.NET}': expected a new release under names of its own"):
        change(served, check_repository(repository, [tiny.ENTRY]), [tiny.ENTRY])


def test_retired_is_what_no_entry_needs(repository: Path) -> None:
    write_release(repository, 2)
    enter(repository, 2)
    configs = check_repository(repository, [tiny.ENTRY, FIRST])
    first = {FIRST, tiny.SLIDE, tiny.NET, tiny.RULE_STEP, tiny.COMBINE}
    assert retired_releases(configs, [tiny.ENTRY]) == {FIRST: first}
    assert retired_releases(configs, [tiny.ENTRY, FIRST]) == {}
    assert needed(configs, [tiny.ENTRY]) == {tiny.ENTRY} | {of_release(name, 2) for name in first}
    assert unload_order(configs, first)[:2] == sorted([FIRST, tiny.SLIDE])


class Slide:
    """A client in the middle of a slide: a batch at a time, when the test asks for it."""

    def __init__(self, address: str) -> None:
        self._client = ServedModel(address, tiny.ENTRY)
        self._stream = self._client.stream(self._batches(), in_flight=1)

    def _batches(self) -> Iterator[tuple[int, tiny.Tiles]]:
        for number in range(100):
            yield number, tiny.random_tiles(3, seed=number)

    def next_release(self) -> int:
        """The release that answers the next batch, by its values."""
        number, outputs = next(self._stream)
        tiles = tiny.random_tiles(3, seed=number)
        found = [release for release in (1, 2) if np.array_equal(outputs[PROBABILITIES], probabilities(tiles, release))]
        assert len(found) == 1
        return found[0]

    def close(self) -> None:
        self._client.close()


def entered(address: str) -> str:
    with ServedModel(address, tiny.ENTRY) as client:
        return client.contract.release


@pytest.fixture
def reloadable(repository: Path) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton(repository, [tiny.ENTRY], exposure=RELOADABLE, grace_s=5.0) as server:
        yield server


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_publish_and_roll_back_while_slides_are_segmented(repository: Path, reloadable: EmbeddedTriton) -> None:
    """Each slide ends on the release it began with; callers of the entry meanwhile never see an error."""
    address, stop, errors, answered = reloadable.address, threading.Event(), [], []

    def call_the_entry() -> None:
        with grpcclient.InferenceServerClient(address) as client:
            while not stop.is_set():
                try:
                    answered.append(ask(client, tiny.ENTRY, tiny.random_tiles(1, seed=1), (PROBABILITIES,)))
                except Exception as error:  # noqa: BLE001 (shown below)
                    errors.append(error)

    caller = threading.Thread(target=call_the_entry)
    caller.start()
    old = Slide(address)
    assert old.next_release() == 1
    write_release(repository, 2)
    enter(repository, 2)
    assert wait_until(lambda: entered(address) == SECOND, 60)
    new = Slide(address)
    assert [old.next_release() for _ in range(5)] == [1] * 5
    assert [new.next_release() for _ in range(5)] == [2] * 5
    enter(repository, 1)
    assert wait_until(lambda: entered(address) == FIRST, 60)
    assert [new.next_release() for _ in range(5)] == [2] * 5
    assert [old.next_release() for _ in range(5)] == [1] * 5
    stop.set()
    caller.join(30)
    old.close()
    new.close()
    assert errors == []
    assert len(answered) > 10
    assert reloadable.restarts == ()


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("fault", ["graph", "values", "incomplete"])
def test_a_broken_release_is_refused_and_the_old_one_goes_on(
    repository: Path, reloadable: EmbeddedTriton, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_release(repository, 2)
    if fault == "graph":
        (repository / of_release(tiny.NET, 2) / "1" / "model.onnx").write_bytes(b"not a graph")
        reason = f"model '{of_release(tiny.NET, 2)}': expected a model that loads"
    elif fault == "values":
        (repository / SECOND / CANARY_FILE).write_bytes((repository / FIRST / CANARY_FILE).read_bytes())
        reason = f"model '{SECOND}': the server answers wrong values"
    else:
        (repository / of_release(tiny.COMBINE, 2) / FILE_NAME).rename(repository / "away")
        reason = f"expected the model '{of_release(tiny.COMBINE, 2)}'"
    enter(repository, 2)
    assert wait_until(lambda: "is refused, the old one goes on" in caplog.text, 60)
    assert reason in caplog.text
    slide = Slide(reloadable.address)
    assert slide.next_release() == 1
    slide.close()
    assert {model for model in loaded(reloadable) if "_r2_" in model} == set()
    if fault == "incomplete":  # what was still on its way arrives: the entry does not change once more
        (repository / "away").rename(repository / of_release(tiny.COMBINE, 2) / FILE_NAME)
        assert wait_until(lambda: entered(reloadable.address) == SECOND, 60)
    assert reloadable.restarts == ()


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_an_old_release_is_unloaded_once_nobody_asks_for_it(repository: Path, reloadable: EmbeddedTriton) -> None:
    slide = Slide(reloadable.address)
    write_release(repository, 2)
    enter(repository, 2)
    assert wait_until(lambda: entered(reloadable.address) == SECOND, 60)
    assert FIRST in loaded(reloadable)
    assert slide.next_release() == 1
    assert wait_until(lambda: not {model for model in loaded(reloadable) if "_r1_" in model}, 60)
    assert entered(reloadable.address) == SECOND
    slide.close()
    assert reloadable.restarts == ()  # the stubs that ended were expected to


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_a_restart_keeps_both_releases(repository: Path, reloadable: EmbeddedTriton) -> None:
    slide = Slide(reloadable.address)
    write_release(repository, 2)
    enter(repository, 2)
    assert wait_until(lambda: entered(reloadable.address) == SECOND, 60)
    triton = server_of(reloadable.pid)
    assert triton is not None
    os.kill(triton.pid, signal.SIGKILL)
    assert slide.next_release() == 1
    assert wait_until(lambda: len(reloadable.restarts) == 1, 60)
    slide.close()
    assert entered(reloadable.address) == SECOND


@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_serve_reloadable_says_what_it_does(repository: Path) -> None:
    with serving(repository, "--reloadable") as served:
        write_release(repository, 2)
        enter(repository, 2)
        served.wait_for(f"{tiny.ENTRY}: now {SECOND}")
        assert entered(served.address) == SECOND
        found = [listener for listener in listeners() if listener.pid == served.triton.pid]
        assert [(listener.port, listener.is_loopback) for listener in found] == [(served.port, True)]


@pytest.mark.triton
@pytest.mark.usefixtures("triton")
def test_model_control_is_behind_the_secret_and_off_without_the_flag(repository: Path, server: EmbeddedTriton) -> None:
    with grpcclient.InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            client.unload_model(tiny.NET)
        with pytest.raises(InferenceServerException, match="explicit model load / unload is not allowed"):
            client.unload_model(tiny.NET, headers=server.admin_headers)


def loaded(server: EmbeddedTriton) -> set[str]:
    with grpcclient.InferenceServerClient(server.address) as client:
        index = client.get_model_repository_index(headers=server.admin_headers)
    return {model.name for model in index.models if model.state == "READY"}
