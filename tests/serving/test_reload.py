"""What a new release changes, and the real server while releases are published, rolled back, broken and forgotten."""

from __future__ import annotations

import os
import shutil
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
from serving.processes import model_of, server_of, stub_instance, stubs_of
from serving.release_set import change, first_steps, needed, retired_releases, unload_order
from serving.restarts import Supervision
from serving.sockets import listeners

from . import tiny_release as tiny
from .next_release import OTHER_NUMBER, enter, of_release, probabilities, write_other_model, write_release
from .processes import wait_until
from .serving_process import serving
from .tiny_image import DECODE, IMAGE_ENTRY, IMAGE_RELEASE, add_image_entry

RELOADABLE = Exposure(reloadable=True)
FIRST, SECOND = tiny.RELEASE, of_release(tiny.RELEASE, 2)
OTHER_RELEASE = tiny.RELEASE.replace("tiny_", "other_")


def test_a_new_release_is_loaded_from_its_steps_up_and_the_entry_last(repository: Path) -> None:
    served = check_repository(repository, [tiny.ENTRY])
    write_release(repository, 2)
    enter(repository, 2)
    found = change(served, check_repository(repository, [tiny.ENTRY]), [tiny.ENTRY])
    assert [config.name for config in found.entries] == [tiny.ENTRY]
    assert list(found.contracts) == [SECOND]
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
    assert (found.load, list(found.contracts)) == ((), [FIRST])


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


def test_the_images_of_a_release_move_and_retire_with_it(repository: Path) -> None:
    add_image_entry(repository)
    entries = [tiny.ENTRY, IMAGE_ENTRY]
    first = check_repository(repository, entries)
    write_release(repository, 2)
    enter(repository, 2)
    enter(repository, 2, IMAGE_ENTRY)
    found = change(first, check_repository(repository, entries), entries)
    assert [(name, contract.takes) for name, contract in found.contracts.items()] == [
        (SECOND, "tile"),
        (of_release(IMAGE_RELEASE, 2), "image"),
    ]
    served = first | {config.name: config for config in (*found.load, *found.entries)}
    retired = retired_releases(served, entries)
    assert set(retired) == {FIRST, IMAGE_RELEASE}
    assert set().union(*retired.values()) == set(first) - set(entries)  # the decode step too


def test_first_is_what_waits_for_no_other_step(repository: Path) -> None:
    configs = check_repository(add_image_entry(repository), [tiny.ENTRY, IMAGE_ENTRY])
    assert first_steps(configs, FIRST) == {tiny.NET, tiny.RULE_STEP}
    assert first_steps(configs, IMAGE_RELEASE) == {DECODE}
    assert first_steps(configs, "no such model") == frozenset()


def test_a_new_entry_is_taken_in_with_its_release(repository: Path) -> None:
    served = check_repository(repository, [tiny.ENTRY])
    other = write_other_model(repository)
    found = change(served, check_repository(repository, [other]), [other])
    assert [config.name for config in found.entries] == [other]
    assert {config.name for config in found.load} == {name.replace("tiny_", "other_") for name in served if name != tiny.ENTRY}


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
@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_models_come_are_watched_and_go(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No model was named, so every entry is served, whenever it comes: refused while its values are wrong, asked for its canaries, unloaded."""
    add_image_entry(repository)
    tiles = tiny.random_tiles(3, seed=1)
    expected = np.rint(probabilities(tiles, OTHER_NUMBER) * np.float32(0.5)).astype(np.uint8)
    watched = Supervision(canary_every_s=0.5, canary_answer_s=2.0, waits_s=(0.0,))
    with EmbeddedTriton(repository, [], exposure=RELOADABLE, supervision=watched, grace_s=1.0) as server:
        other = write_other_model(repository)
        record = repository / OTHER_RELEASE / CANARY_FILE
        right, wrong = record.read_bytes(), (repository / FIRST / CANARY_FILE).read_bytes()
        record.write_bytes(wrong)
        assert wait_until(
            lambda: f"the new entry {other!r} is refused: model {OTHER_RELEASE!r}: the server answers wrong" in caplog.text, 60
        )
        write_release(repository, 2)
        enter(repository, 2)  # what is refused holds up no other
        assert wait_until(lambda: entered(server.address) == SECOND, 60)
        assert not {model for model in loaded(server) if model.startswith("other_")}
        record.write_bytes(right)
        for entry in (other, f"{other}_image"):
            os.utime(repository / entry / FILE_NAME)  # as one that is published again
        assert wait_until(lambda: {other, f"{other}_image"} <= loaded(server), 60)
        with grpcclient.InferenceServerClient(server.address) as client:
            np.testing.assert_array_equal(ask(client, other, tiles, (PROBABILITIES,))[PROBABILITIES], expected)
        os.kill(stub_of(server, DECODE.replace("tiny_", "other_")), signal.SIGSTOP)  # no answer, or Triton's own word for it
        assert wait_until(lambda: len(server.restarts) == 1, 60)
        assert f"model '{OTHER_RELEASE}_image': " in server.restarts[0].reason  # tiles of the same release are answered
        assert {tiny.ENTRY, IMAGE_ENTRY, other, f"{other}_image"} <= loaded(server)
        for entry in (other, f"{other}_image", IMAGE_ENTRY):
            shutil.rmtree(repository / entry)
        removed = {IMAGE_ENTRY, other, f"{other}_image"}
        assert wait_until(lambda: not removed & loaded(server), 60)
        shutil.rmtree(repository / tiny.ENTRY)
        assert wait_until(lambda: "the entries stay as they are: " in caplog.text, 60)  # the last one
        assert entered(server.address) == SECOND
        assert len(server.restarts) == 1  # the stubs that ended were expected to


def stub_of(server: EmbeddedTriton, model: str) -> int:
    triton = server_of(server.pid)
    assert triton is not None
    (stub,) = (stub for stub in stubs_of(triton.pid) if model_of(stub_instance(stub)) == model)
    return stub.pid


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
