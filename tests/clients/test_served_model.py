"""The tile client against a server of Triton's protocol: order, bound, retries, refusals."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

import clients.served_model
from clients.errors import ServerError
from clients.served_model import ServedModel
from clients.served_model import is_temporary as told_as_temporary
from serving.contract import CAM, PROBABILITIES, SCORES
from serving.port import free_port

from .fake_triton import MODEL, Failure, FakeTriton
from .painted import TILE_PX, contract

BUSY = (grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size")
RESTRICTED = (grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-admin'")
BROKEN = (grpc.StatusCode.INTERNAL, "onnx runtime error: bad\nthings")


def tiles(number: int, count: int = 2) -> np.ndarray:
    """Painted with the class `number` % 5."""
    rgb = np.full((count, TILE_PX, TILE_PX, 3), (40 * (number % 5), 30, 190), dtype=np.uint8)
    return rgb


def batches(count: int) -> Iterator[tuple[int, np.ndarray]]:
    return ((number, tiles(number)) for number in range(count))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.served_model, "RETRY_WAITS_S", (0.0, 0.0, 0.0))


def test_learns_everything_from_the_contract() -> None:
    with FakeTriton(contract()) as server, ServedModel(server.address, MODEL) as client:
        assert client.contract == contract()
        assert client.max_batch == 8


def test_answers_come_in_order_though_the_server_s_do_not() -> None:
    with FakeTriton(contract(), delay_s=lambda number: 0.05 * (3 - number % 4)) as server, ServedModel(server.address, MODEL) as client:
        answers = list(client.stream(batches(12), in_flight=4))
        assert [tag for tag, _ in answers] == list(range(12))
        for tag, outputs in answers:
            assert outputs[PROBABILITIES].shape == (2, 5, 16, 16)
            assert (outputs[PROBABILITIES][:, tag % 5] == 255).all()
        assert {model for model, _, _ in server.requests} == {"painted_r1_segment_slide"}


def test_no_more_than_the_bound_are_on_the_way_and_batches_are_made_only_when_there_is_room() -> None:
    made = 0

    def counted() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal made
        for number in range(20):
            made += 1
            yield number, tiles(number)

    with FakeTriton(contract(), delay_s=lambda number: 0.02) as server, ServedModel(server.address, MODEL) as client:
        for received, _ in enumerate(client.stream(counted(), in_flight=3), start=1):
            assert made <= received + 2
        assert server.most_at_once == 3


def test_cam_models_are_asked_for_maps_and_scores() -> None:
    with FakeTriton(contract("cam")) as server, ServedModel(server.address, MODEL) as client:
        ((_, outputs),) = client.stream(iter([(0, tiles(3))]), in_flight=2)
    assert set(outputs) == {CAM, SCORES}
    assert outputs[SCORES][0] == pytest.approx([0.1, 0.1, 0.9, 0.1])


@pytest.mark.usefixtures("no_waiting")
def test_a_full_queue_is_tried_again_and_the_order_kept() -> None:
    failures: list[Failure | None] = [None, BUSY, None, BUSY, BUSY]
    with FakeTriton(contract(), failures=failures) as server, ServedModel(server.address, MODEL) as client:
        answers = list(client.stream(batches(6), in_flight=2))
        assert [(tag, int(outputs[PROBABILITIES][0, :, 0, 0].argmax())) for tag, outputs in answers] == [(n, n % 5) for n in range(6)]
        assert len(server.requests) == 9


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("failures", "requests", "message"),
    [
        ([BUSY] * 9, 4, "Exceeds maximum queue size"),
        ([RESTRICTED], 1, "restricted"),
        ([BROKEN], 1, "failed on a batch: onnx runtime error: bad things"),
    ],
)
def test_gives_up_with_the_server_s_reason(failures: list[Failure | None], requests: int, message: str) -> None:
    with FakeTriton(contract(), failures=failures) as server, ServedModel(server.address, MODEL) as client:
        with pytest.raises(ServerError, match=message):
            list(client.stream(batches(1), in_flight=1))
        assert len(server.requests) == requests


def test_giving_up_ends_the_waiting_for_a_server_that_is_away() -> None:
    with FakeTriton(contract(), failures=[BUSY] * 9) as server, ServedModel(server.address, MODEL) as client:
        threading.Timer(0.3, client.give_up).start()
        with pytest.raises(ServerError, match="Exceeds maximum queue size"):
            list(client.stream(batches(1), in_flight=1))
        assert len(server.requests) < 6  # all nine would take longer than anybody waits


def test_the_engine_is_told_without_its_address() -> None:
    with FakeTriton(contract(), version="7") as server, ServedModel(server.address, MODEL) as client:
        assert client.engine == "fake 7: painted"


def test_an_error_waits_for_what_is_on_the_way_instead_of_canceling_it() -> None:
    with FakeTriton(contract(), failures=[BROKEN], delay_s=lambda number: 0.2 * number) as server:
        with ServedModel(server.address, MODEL) as client, pytest.raises(ServerError):
            list(client.stream(batches(3), in_flight=3))
        assert len(server.requests) == 3
        assert server._inside == 0


def test_an_answer_of_another_shape_is_refused() -> None:
    message = r"expected PROBABILITIES of shape \(2, 5, 16, 16\), got \(2, 5, 15, 15\)"
    with (
        FakeTriton(contract(), cells=15) as server,
        ServedModel(server.address, MODEL) as client,
        pytest.raises(ServerError, match=message),
    ):
        list(client.stream(batches(1), in_flight=1))


def test_says_what_to_do_without_server_or_model() -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(ServerError, match=rf"{address}: expected a Triton server, none answers .*histoserve serve"):
        ServedModel(address, MODEL)
    with FakeTriton(contract()) as server, pytest.raises(ServerError, match=r"'absent_segment'.*check --model"):
        ServedModel(server.address, "absent_segment")


def test_refuses_a_model_that_is_not_ours() -> None:
    with FakeTriton(contract(), parameters={}) as server, pytest.raises(ServerError, match="was not exported by histoserve"):
        ServedModel(server.address, MODEL)


@pytest.mark.parametrize(
    ("status", "message", "is_temporary"),
    [
        ("StatusCode.UNAVAILABLE", "Exceeds maximum queue size", True),
        ("StatusCode.UNAVAILABLE", "Stream removed (Socket closed)", True),
        ("StatusCode.INTERNAL", "in ensemble 'm', Stub process 'm_net_0_0' is not healthy.", True),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'm_r1_segment_slide' has no available versions", True),
        ("StatusCode.NOT_FOUND", "Request for unknown model: 'm' is not found", False),
        ("StatusCode.UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc-protocol-admin'", False),
        ("StatusCode.INTERNAL", "in ensemble 'm', ONNX Runtime: bad things", False),
    ],
)
def test_what_a_server_says_that_is_about_to_be_started_again(status: str, message: str, is_temporary: bool) -> None:
    """The words are those of Triton 2.51 when a stub or the server was killed, or told to stop, under load."""
    assert told_as_temporary(InferenceServerException(message, status=status)) is is_temporary
