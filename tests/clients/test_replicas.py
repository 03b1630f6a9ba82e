"""Batches over several servers of Triton's protocol: turns, failover, return, refusal of what serves something else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

import clients.replica
import clients.replicas
from clients.errors import AwayError, ServerError
from clients.replicas import ReplicatedModel
from clients.segment import SegmentOptions, segment_slide
from clients.served_model import ServedModel
from serving.contract import PROBABILITIES, Contract
from serving.port import free_port

from .fake_triton import MODEL, Failure, FakeTriton
from .painted import TILE_PX, contract, paint, stripes, write_slide

FULL = (grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size")
GONE = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
LACKS = (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'painted_r1_segment_slide' is not found")
BROKEN = (grpc.StatusCode.INTERNAL, "onnx runtime error: bad things")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.replicas, "RETRY_WAITS_S", (0.05,) * 60)
    monkeypatch.setattr(clients.replica, "_REST_S", 0.05)


def batches(count: int) -> Iterator[tuple[int, np.ndarray]]:
    """Batch n is painted with the class n % 5."""
    return ((number, np.full((2, TILE_PX, TILE_PX, 3), (40 * (number % 5), 30, 190), dtype=np.uint8)) for number in range(count))


def classes(model: ReplicatedModel, count: int, in_flight: int = 2) -> list[tuple[int, int]]:
    return [(tag, int(outputs[PROBABILITIES][0, :, 0, 0].argmax())) for tag, outputs in model.stream(batches(count), in_flight)]


def right(count: int) -> list[tuple[int, int]]:
    return [(number, number % 5) for number in range(count)]


def release(number: int) -> Contract:
    return dataclasses.replace(contract(), release=f"painted_r{number}_segment", slide_model=f"painted_r{number}_segment_slide")


def test_all_servers_work_and_the_order_is_kept() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(FakeTriton(contract(), delay_s=lambda number: 0.01 * (number % 3))) for _ in range(3)]
        model = stack.enter_context(ReplicatedModel([server.address for server in servers], MODEL))
        assert (model.contract, model.max_batch, model.engine) == (contract(), 8, "fake 1: painted")
        assert classes(model, 30) == right(30)
        assert all(len(server.requests) >= 5 for server in servers)
        assert sum(len(server.requests) for server in servers) == 30
        assert all(server.most_at_once <= 6 for server in servers)


def test_a_slow_server_gets_fewer_batches() -> None:
    with (
        FakeTriton(contract(), delay_s=lambda number: 0.3) as slow,
        FakeTriton(contract()) as fast,
        ReplicatedModel([slow.address, fast.address], MODEL) as model,
    ):
        assert classes(model, 24) == right(24)
        assert len(slow.requests) < len(fast.requests)


def test_a_full_queue_sends_the_batch_to_the_other_and_the_server_stays_in_turn() -> None:
    failures: list[Failure | None] = [FULL]
    with (
        FakeTriton(contract(), failures=failures) as full,
        FakeTriton(contract()) as other,
        ReplicatedModel([full.address, other.address], MODEL) as model,
    ):
        assert classes(model, 12, in_flight=1) == right(12)
        assert len(full.requests) + len(other.requests) == 13
        assert len(full.requests) > 3


def test_both_full_are_tried_again_and_again_then_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.replicas, "RETRY_WAITS_S", (0.0, 0.0))
    failures: list[Failure | None] = [FULL] * 9
    with (
        FakeTriton(contract(), failures=failures) as one,
        FakeTriton(contract(), failures=failures) as two,
        ReplicatedModel([one.address, two.address], MODEL) as model,
    ):
        with pytest.raises(ServerError, match="Exceeds maximum queue size"):
            classes(model, 1)
        assert (len(one.requests), len(two.requests)) == (3, 3)


def test_what_a_server_that_goes_away_had_is_sent_to_the_other(caplog: pytest.LogCaptureFixture) -> None:
    with FakeTriton(contract()) as stays, FakeTriton(contract(), delay_s=lambda number: 0.05) as goes:
        with ReplicatedModel([goes.address, stays.address], MODEL) as model:
            answers = model.stream(batches(20), 2)
            got = [next(answers)]
            goes._server.stop(None).wait()
            got += list(answers)
        assert [(tag, int(outputs[PROBABILITIES][0, :, 0, 0].argmax())) for tag, outputs in got] == right(20)
        assert len(stays.requests) >= 15
    assert f"{goes.address}: " in caplog.text
    assert "its batches go to the other servers" in caplog.text


def test_a_server_that_comes_back_is_used_again(caplog: pytest.LogCaptureFixture) -> None:
    with FakeTriton(contract(), failures=[GONE]) as goes, FakeTriton(contract(), delay_s=lambda number: 0.02) as stays:
        with ReplicatedModel([goes.address, stays.address], MODEL) as model:
            assert classes(model, 60) == right(60)
        assert len(goes.requests) > 5
    assert f"{goes.address}: the server is back" in caplog.text


def test_a_server_that_comes_back_with_another_release_gets_nothing_any_more(caplog: pytest.LogCaptureFixture) -> None:
    with FakeTriton(contract(), failures=[GONE]) as goes, FakeTriton(contract(), delay_s=lambda number: 0.02) as stays:
        with ReplicatedModel([goes.address, stays.address], MODEL) as model:
            goes.contract = release(2)
            goes.parameters = release(2).to_parameters()
            assert classes(model, 40) == right(40)
        assert len(goes.requests) < 6
    assert f"{goes.address}: expected the same model 'painted_segment' of all servers all the time" in caplog.text
    assert "painted_r1_segment and painted_r2_segment" in caplog.text


def test_a_server_that_lost_the_release_without_going_away_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with FakeTriton(contract(), failures=[LACKS]) as changed, FakeTriton(contract(), delay_s=lambda number: 0.02) as stays:
        with ReplicatedModel([changed.address, stays.address], MODEL) as model:
            changed.contract = release(2)
            changed.parameters = release(2).to_parameters()
            assert classes(model, 40) == right(40)
        assert len(changed.requests) < 6
    assert f"{changed.address} gets no batch of this run any more" in caplog.text


def test_all_come_back_with_another_release_and_the_run_ends_with_the_reason() -> None:
    """What they promised at the start is what counts, not what they say now."""
    with FakeTriton(contract(), failures=[GONE] * 9) as first, FakeTriton(contract(), failures=[GONE] * 9) as second:
        with ReplicatedModel([first.address, second.address], MODEL) as model:
            for server in (first, second):
                server.contract = release(2)
                server.parameters = release(2).to_parameters()
            with pytest.raises(ServerError, match=r"no server is left: .*painted_r1_segment and painted_r2_segment"):
                classes(model, 4)
        assert len(first.requests) + len(second.requests) < 12


def test_one_may_be_away_at_the_start_and_come_later(caplog: pytest.LogCaptureFixture) -> None:
    late = FakeTriton(contract())
    late.port = free_port()

    def until_it_came() -> Iterator[tuple[int, np.ndarray]]:
        for number, batch in enumerate(batches(10_000)):
            if number == 3:
                late.__enter__()
            if late.requests:
                return
            yield batch

    addresses = [f"127.0.0.1:{late.port}"]
    with FakeTriton(contract(), delay_s=lambda number: 0.02) as there, ReplicatedModel([*addresses, there.address], MODEL) as model:
        assert f"{addresses[0]}: expected a Triton server" in caplog.text
        assert "the others begin without it" in caplog.text
        try:
            assert len(list(model.stream(until_it_came(), 2))) < 10_000
        finally:
            late.__exit__(None, None, None)
    assert late.requests


def test_none_answers() -> None:
    addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with pytest.raises(AwayError, match=rf"none of 2 servers answers: {addresses[0]}: expected a Triton server"):
        ReplicatedModel(addresses, MODEL)


@pytest.mark.parametrize(
    ("other", "version", "message"),
    [
        (release(2), "1", "release differs: painted_r1_segment and painted_r2_segment"),
        (contract(), "2", "engine differs: fake 1: painted and fake 2: painted"),
        (contract(mpp=0.25), "1", "contract differs: publish one release"),
    ],
)
def test_servers_of_different_things_are_refused_and_both_named(other: Contract, version: str, message: str) -> None:
    with FakeTriton(contract()) as one, FakeTriton(other, version=version) as two:
        with pytest.raises(ServerError, match=message) as error:
            ReplicatedModel([one.address, two.address], MODEL)
        assert str(error.value).startswith(f"{one.address} and {two.address}: expected the same model")


def test_what_a_server_refuses_is_an_error_though_there_are_others() -> None:
    with FakeTriton(contract(), failures=[BROKEN]) as one, FakeTriton(contract(), failures=[BROKEN]) as two:
        with ReplicatedModel([one.address, two.address], MODEL) as model, pytest.raises(ServerError, match="onnx runtime error"):
            classes(model, 6)
        assert one._inside == two._inside == 0  # nothing was canceled


def test_a_mask_is_the_same_from_one_server_and_from_two_of_which_one_goes(tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "s.tiff", paint(stripes((400, 500))), 0.5)
    options = SegmentOptions(batch=2)
    with FakeTriton(contract()) as one, ServedModel(one.address, MODEL) as single:
        segment_slide(slide, single, tmp_path / "one", options, lambda done, total: None)
        with FakeTriton(contract(), failures=[None, None, GONE]) as two, ReplicatedModel([one.address, two.address], MODEL) as both:
            segment_slide(slide, both, tmp_path / "two", options, lambda done, total: None)
            assert len(two.requests) >= 3
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one" / "s.ome.zarr").rglob("*") if path.is_file()]
    assert len(files) > 5
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
