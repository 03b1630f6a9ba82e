"""Shared memory of the real Triton: a slide's mask is that of messages to the byte, also where the server is killed under way; nothing stays behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from clients.batch import Run, run_in_processes
from clients.omezarr import read_label
from clients.open_model import ModelSource
from clients.outputs import OutputOptions
from clients.segment import SegmentOptions, segment_slide
from clients.served_model import ServedModel
from clients.shared_tiles import PREFIX, SHM
from clients.slide_list import SlideEntry
from clients.tls_files import TlsFiles
from serving.contract import PROBABILITIES
from serving.embedded import EmbeddedTriton
from serving.processes import server_of
from tests.serving import tiny_release as tiny

from .painted import write_slide

pytestmark = pytest.mark.triton
OPTIONS = SegmentOptions(batch=8, overlap=0.25, outputs=OutputOptions(geojson=False, no_tissue=True))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository")


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton(repository, [tiny.ENTRY]) as started:
        yield started


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark noise that differs from square to square."""
    squares = np.random.default_rng(3).integers(0, 180, (50, 70, 3), dtype=np.uint8)
    return write_slide(tmp_path_factory.mktemp("slide") / "s.tiff", squares.repeat(5, 0).repeat(5, 1), tiny.contract().task.mpp)


@pytest.fixture(scope="module")
def in_messages(server: EmbeddedTriton, slide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The mask of tiles that travel in messages."""
    output = tmp_path_factory.mktemp("messages")
    with ServedModel(server.address, tiny.ENTRY) as model:
        segment_slide(slide, model, output, OPTIONS, lambda done, total: None)
    made = contents(output)
    assert len(np.unique(read_label(output / "s.ome.zarr").labels)) > 2  # it is not empty
    return made


def contents(output: Path) -> dict[str, bytes]:
    """The chunks of the mask."""
    store = output / "s.ome.zarr"
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file() and "/c/" in str(path)}


def mapped(server: EmbeddedTriton) -> list[str]:
    """Names of the regions that the server has."""
    with grpcclient.InferenceServerClient(server.address) as client:
        return list(client.get_system_shared_memory_status(headers=server.admin_headers).regions)


def named_regions() -> list[Path]:
    return [*SHM.glob(f"{PREFIX}{os.getpid()}-*")]


def test_a_server_that_is_killed_under_way_changes_no_byte(
    server: EmbeddedTriton, slide: Path, in_messages: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before: list[list[str]] = []

    def kill_once(done: int, total: int) -> None:
        if done > total / 2 and not before:
            before.append(mapped(server))
            process = server_of(server.pid)
            assert process is not None
            os.kill(process.pid, signal.SIGKILL)

    with ServedModel(server.address, tiny.ENTRY, TlsFiles(), server.admin_headers) as model:
        segment_slide(slide, model, tmp_path, OPTIONS, kill_once)
        after = mapped(server)
    assert contents(tmp_path) == in_messages
    assert len(server.restarts) == 1
    assert "Unable to find shared memory region" in caplog.text
    assert before[0]
    assert after
    assert not set(before[0]) & set(after)
    assert mapped(server) == []
    assert named_regions() == []


def test_processes_of_a_run_leave_nothing_with_the_server(
    server: EmbeddedTriton, slide: Path, in_messages: dict[str, bytes], tmp_path: Path
) -> None:
    source = ModelSource("triton", tiny.ENTRY, (server.address,), Path(), shared_by=server.admin_headers)
    told: list[str] = []
    seen: list[int] = []

    def on_tiles(name: str, done: int, total: int) -> None:
        seen.append(len(mapped(server)))

    run_in_processes(Run(source, tmp_path, OPTIONS), [SlideEntry(slide)], 1, on_tiles, lambda entry, outcome: told.append(outcome.state))
    assert told == ["done"]
    assert max(seen) > 0
    assert contents(tmp_path) == in_messages
    assert mapped(server) == []


class StoppedError(Exception):
    """What ends a client."""


def test_a_client_that_fails_leaves_nothing_with_the_server(server: EmbeddedTriton) -> None:
    got: list[int] = []

    def batches() -> Iterator[tuple[int, np.ndarray]]:
        for number in range(9):
            yield number, tiny.random_tiles(8, seed=number)
        raise StoppedError

    def fail() -> None:
        with ServedModel(server.address, tiny.ENTRY, TlsFiles(), server.admin_headers) as model:
            for number, outputs in model.stream(batches(), 4):
                np.testing.assert_array_equal(outputs[PROBABILITIES], tiny.net_probabilities(tiny.random_tiles(8, seed=number)))
                assert len(mapped(server)) == 4
                got.append(number)

    with pytest.raises(StoppedError):
        fail()
    assert got == [0, 1, 2, 3, 4, 5]
    assert mapped(server) == []


def test_without_the_secret_the_server_refuses_and_tiles_travel_in_messages(
    server: EmbeddedTriton, caplog: pytest.LogCaptureFixture
) -> None:
    tiles = tiny.random_tiles(8, seed=1)
    with ServedModel(server.address, tiny.ENTRY, TlsFiles(), {}) as model:
        ((_, outputs),) = model.stream([(0, tiles)], 2)
    np.testing.assert_array_equal(outputs[PROBABILITIES], tiny.net_probabilities(tiles))
    (line,) = caplog.messages
    assert "restricted" in line
    assert line.endswith("they travel in messages")
