"""Tiles in shared memory: read right, given back late enough, lost and made anew, refused with a reason. /dev/shm is the real one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import clients.cli
import clients.shared_tiles
from clients.cli import main
from clients.errors import ServerError
from clients.served_model import ServedModel
from clients.shared_tiles import PREFIX, SHM, STALE_S, remove_stale
from clients.tls_files import TlsFiles
from serving.contract import PROBABILITIES

from .fake_triton import MODEL
from .painted import TILE_PX, contract, paint, stripes, write_slide
from .sharing_triton import SECRET, SharingTriton

TILES = 3


def connect(server: SharingTriton, secret: Mapping[str, str] = SECRET) -> ServedModel:
    return ServedModel(server.address, MODEL, TlsFiles(), secret)


def classes_of(model: ServedModel, count: int, in_flight: int) -> list[tuple[int, int, int]]:
    """Tag and lowest and highest class of what comes back for tiles painted with the class `tag` % 5."""
    batches = ((tag, np.full((TILES, TILE_PX, TILE_PX, 3), (40 * (tag % 5), 30, 190), dtype=np.uint8)) for tag in range(count))
    found = []
    for tag, outputs in model.stream(batches, in_flight):
        classes = outputs[PROBABILITIES].argmax(axis=1)
        assert classes.shape == (TILES, 16, 16)
        found.append((tag, int(classes.min()), int(classes.max())))
    return found


def expected(count: int) -> list[tuple[int, int, int]]:
    return [(tag, tag % 5, tag % 5) for tag in range(count)]


def own_files() -> list[str]:
    return [path.name for path in SHM.glob(f"{PREFIX}{os.getpid()}-*")]


def test_every_request_names_a_slot_and_there_are_as_many_as_requests_on_the_way() -> None:
    with SharingTriton(contract()) as server:
        with connect(server) as model:
            assert classes_of(model, 20, in_flight=3) == expected(20)
            assert None not in server.ways
            assert len(set(server.ways)) == server.told == len(server.regions) == 3
            assert own_files() == []  # a client that is killed now leaves nothing
            classes_of(model, 4, in_flight=2)
            assert server.told == 3
        assert server.regions == {}


@pytest.mark.parametrize(("in_flight", "forget_at"), [(1, 2), (3, 4), (4, 9)])
def test_a_server_that_was_started_again_is_told_of_new_slots(in_flight: int, forget_at: int, caplog: pytest.LogCaptureFixture) -> None:
    with SharingTriton(contract()) as server:
        server.forget_at = forget_at
        with connect(server) as model:
            assert classes_of(model, 12, in_flight) == expected(12)
        assert in_flight < server.told <= 2 * in_flight
        assert None not in server.ways
        assert server.regions == {}
    assert "Unable to find shared memory region" in caplog.text
    assert "the batch is sent again in 0 s" in caplog.text


def test_no_slot_of_a_server_that_was_started_again_is_lent_anymore() -> None:
    """Neither one that was free when this was noticed, nor one that comes back later, with an answer that tells the same."""
    with SharingTriton(contract()) as server, connect(server) as model:
        shared = model._shared
        assert shared is not None
        first, second = shared.lend(100), shared.lend(100)
        assert first is not None
        assert second is not None
        shared.give_back(first)
        told = "[StatusCode.INVALID_ARGUMENT] Unable to find shared memory region: '{}'"
        assert shared.is_lost(told.format(first.name))
        third = shared.lend(100)
        shared.give_back(second)
        assert shared.is_lost(told.format(second.name))
        fourth = shared.lend(100)
        assert third is not None
        assert fourth is not None
        assert len({slot.name for slot in (first, second, third, fourth)}) == 4
        shared.give_back(third)
        assert shared.lend(101) not in (None, third)  # too small for it
        assert shared.lend(90) == third
        assert not shared.is_lost("Unable to find shared memory region: 'somebody else'")
        assert not shared.is_lost(f"{third.name}: Exceeds maximum queue size")


def test_without_the_secret_tiles_travel_in_messages_and_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with SharingTriton(contract()) as server, connect(server, {}) as model:
        assert classes_of(model, 6, in_flight=2) == expected(6)
        assert server.ways == [None] * 6
        assert own_files() == []
        (line,) = caplog.messages
    assert line.startswith(f"{server.address}: no shared memory for 0.0352 MB of tiles (")
    assert "This protocol is restricted" in line
    assert line.endswith("): they travel in messages")


def test_so_they_do_where_there_is_no_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(clients.shared_tiles, "SHM", tmp_path / "absent")
    with SharingTriton(contract()) as server, connect(server) as model:
        assert classes_of(model, 6, in_flight=2) == expected(6)
        assert server.ways == [None] * 6
    assert len(caplog.messages) == 1
    assert "No such file or directory" in caplog.text


def test_a_full_shared_memory_is_noticed_before_a_byte_is_written(caplog: pytest.LogCaptureFixture) -> None:
    """More than any machine has: the kernel refuses it, where a file with holes would end the client with SIGBUS."""
    with SharingTriton(contract()) as server, connect(server) as model:
        assert model._shared is not None
        assert model._shared.lend(2**50) is None
        assert server.told == 0
        assert own_files() == []
        assert classes_of(model, 3, in_flight=2) == expected(3)
    assert "No space left on device" in caplog.text


def test_says_that_it_is_used(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, clients.shared_tiles.__name__)
    with SharingTriton(contract()) as server, connect(server) as model:
        classes_of(model, 6, in_flight=3)
        assert caplog.messages == [f"{server.address}: tiles travel in shared memory, 0.0352 MB a request"]


@pytest.mark.parametrize(("flags", "is_shared"), [([], True), (["--shared-memory", "off"], False)])
def test_the_command_uses_it_with_a_server_of_its_own(
    flags: list[str], is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = write_slide(tmp_path / "s.tiff", paint(stripes((200, 260))), 0.5)
    with SharingTriton(contract()) as server:
        monkeypatch.setattr(clients.cli, "EmbeddedTriton", lambda repository, models: nullcontext(server))
        assert main([str(slide), "-o", str(tmp_path / "out"), "--model", MODEL, *flags]) == 0
        assert server.ways
        assert {way is not None for way in server.ways} == {is_shared}


def test_slots_are_unmapped_after_an_error_too() -> None:
    with SharingTriton(contract(), cells=15) as server:
        with pytest.raises(ServerError, match="expected PROBABILITIES"), connect(server) as model:
            classes_of(model, 6, in_flight=3)
        assert server.told == 3
        assert server.regions == {}


def test_removes_what_killed_clients_left_and_nothing_younger() -> None:
    old, young = (SHM / f"{PREFIX}{os.getpid()}-{age}-of-the-test" for age in ("old", "young"))
    old.touch()
    young.touch()
    long_ago_s = time.time() - STALE_S - 1
    os.utime(old, (long_ago_s, long_ago_s))
    try:
        remove_stale()
        assert own_files() == [young.name]
    finally:
        young.unlink()
