"""The callers' client against a server of Triton's protocol: what it sends, what it tries again, and every way in which a call can end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

import clients.fleet
from clients import call_errors
from clients.async_tile_client import AsyncTileClient
from clients.call_errors import (
    AccessError,
    BusyError,
    CallError,
    ClosedError,
    DeadlineError,
    FailedError,
    ImageFileError,
    MismatchError,
    MissingModelError,
    TilesError,
    UnreachableError,
)
from clients.endpoint import Tls
from clients.picture import MAX_PX, PictureLimits
from clients.tile_client import TileClient
from serving.contract import LABELS
from serving.port import free_port

from .fake_triton import Failure, FakeTriton
from .painted import CELL_PX, TILE_PX, contract, paint, stripes

BUSY = (grpc.StatusCode.UNAVAILABLE, "[request id: 1] Exceeds maximum queue size")
AWAY = (grpc.StatusCode.UNAVAILABLE, "Socket closed")
STOPPING = (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'painted_segment' has no available versions")
RESTRICTED = (grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-admin'")
UNKNOWN = (grpc.StatusCode.UNAUTHENTICATED, "bad token")
BROKEN = (grpc.StatusCode.INTERNAL, "onnx runtime error: bad\nthings")


class PaintedTriton(FakeTriton):
    """All entries of the contract's kind, which also give LABELS, and the headers of the requests."""

    token: str | bytes | None = None  # of the last request

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        if not request.name.startswith("painted") or self.contract.kind not in request.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        request.name = "painted_segment"
        return super().ModelConfig(request, context)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.token = dict(context.invocation_metadata()).get("authorization")
        return super().ModelInfer(request, context)

    def _answer(self, tiles: np.ndarray, names: list[str]) -> Any:
        response = super()._answer(tiles, [name for name in names if name != LABELS])
        if LABELS in names:
            labels = np.rint(tiles[..., 0] / 40).astype(np.uint8)
            response.outputs.add(name=LABELS, datatype="UINT8", shape=labels.shape)
            response.raw_output_contents.append(labels.tobytes())
        return response


def tiles(count: int) -> np.ndarray:
    """Tile i is painted with the class i % 4 + 1."""
    classes = np.arange(count, dtype=np.uint8) % 4 + 1
    return paint(np.broadcast_to(classes[:, None, None], (count, TILE_PX, TILE_PX)))


def require_right(labels: np.ndarray, levels: np.ndarray) -> None:
    expected = np.arange(len(labels)) % 4 + 1
    np.testing.assert_array_equal(labels, np.broadcast_to(expected[:, None, None], (len(labels), TILE_PX, TILE_PX)))
    np.testing.assert_array_equal(levels.argmax(axis=1)[:, 0, 0], expected)


def png(rgb: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.fleet, "_WAITS_S", (0.01,))
    monkeypatch.setattr(clients.fleet, "_REST_S", 0.05)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 67])
def test_any_number_of_tiles_is_split_to_the_limit_and_put_together_in_order(count: int) -> None:
    with (
        PaintedTriton(contract(), delay_s=lambda number: 0.01 * (3 - number % 4)) as server,
        TileClient(server.address, "painted") as client,
    ):
        result = client.segment(tiles(count))
        assert result.labels.shape == (count, TILE_PX, TILE_PX)
        assert result.levels.shape == (count, 5, 16, 16)
        require_right(result.labels, result.levels)
        assert {model for model, _, _ in server.requests} <= {"painted_segment"}
        assert sorted(number for _, number, _ in server.requests) == sorted([8] * (count // 8) + [count % 8] * (count % 8 > 0))
        assert result.probabilities.dtype == np.float32
        np.testing.assert_array_equal(result.probabilities * 255, result.levels)


def test_cams_and_scores() -> None:
    with PaintedTriton(contract("cam")) as server, TileClient(server.address, "painted") as client:
        result = client.cam(tiles(9))
        assert client.contract("cam") == contract("cam")
    require_right(result.labels, np.concatenate([np.zeros_like(result.cam[:, :1]), result.cam], axis=1))
    assert result.scores.argmax(axis=1).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_no_more_than_the_window_is_on_the_way_for_all_threads_together() -> None:
    with PaintedTriton(contract(), delay_s=lambda number: 0.02) as server, TileClient(server.address, "painted", in_flight=3) as client:
        with ThreadPoolExecutor(4) as pool:
            for result in pool.map(lambda count: client.segment(tiles(count)), [20, 33, 5, 12]):
                require_right(result.labels, result.levels)
        assert server.most_at_once == 3


@pytest.mark.parametrize("failure", [BUSY, AWAY, STOPPING])
def test_temporary_errors_are_tried_again(failure: Failure) -> None:
    with PaintedTriton(contract(), failures=[failure, None, failure, failure]) as server, TileClient(server.address, "painted") as client:
        result = client.segment(tiles(20))
        require_right(result.labels, result.levels)
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (BUSY, BusyError, "Exceeds maximum queue size: send less at a time, or later"),
        (AWAY, UnreachableError, "Socket closed: start a server with `histoserve serve`"),
        (RESTRICTED, AccessError, "restricted.*give the certificates as tls and the token in headers"),
        (UNKNOWN, AccessError, "bad token"),
        (BROKEN, FailedError, "onnx runtime error: bad things"),
    ],
)
def test_what_a_server_says_has_its_own_error(failure: Failure, error: type[CallError], message: str) -> None:
    with PaintedTriton(contract(), failures=[failure]) as server, TileClient(server.address, "painted", patience_s=0) as client:
        with pytest.raises(error, match=message):
            client.segment(tiles(1))
        result = client.segment(tiles(3))
        require_right(result.labels, result.levels)


def test_nobody_answers() -> None:
    with (
        TileClient([f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"], "painted", patience_s=0.1) as client,
        pytest.raises(UnreachableError, match="correct the address"),
    ):
        client.segment(tiles(1))


def test_models_that_are_missing_not_ours_or_of_another_kind() -> None:
    with (
        FakeTriton(contract()) as server,
        TileClient(server.address, "absent") as client,
        pytest.raises(MissingModelError, match="absent_cam"),
    ):
        client.cam(tiles(1))
    with (
        PaintedTriton(contract(), parameters={}) as server,
        TileClient(server.address, "painted") as client,
        pytest.raises(MismatchError, match="was not exported by histoserve"),
    ):
        client.contract()
    of_cam = contract("cam").to_parameters()
    with (
        PaintedTriton(contract(), parameters=of_cam) as server,
        TileClient(server.address, "painted") as client,
        pytest.raises(MismatchError, match="expected an entry of kind 'segment', got 'cam' that takes tiles"),
    ):
        client.contract()


def test_an_answer_that_the_contract_does_not_promise() -> None:
    with (
        PaintedTriton(contract(), cells=15) as server,
        TileClient(server.address, "painted") as client,
        pytest.raises(MismatchError, match=r"expected PROBABILITIES uint8 \(1, 5, 16, 16\), got uint8 \(1, 5, 15, 15\)"),
    ):
        client.segment(tiles(1))


class SpoiledTriton(PaintedTriton):
    """Its first answer is spoiled."""

    def __init__(self, spoil: Callable[[Any], None]) -> None:
        super().__init__(contract())
        self._spoil: Callable[[Any], None] | None = spoil

    def _answer(self, tiles: np.ndarray, names: list[str]) -> Any:
        response = super()._answer(tiles, names)
        if self._spoil is not None:
            self._spoil(response)
            self._spoil = None
        return response


def drop_last(response: Any) -> None:
    del response.outputs[-1], response.raw_output_contents[-1]


def empty_last(response: Any) -> None:
    """As python steps with numpy 2 send on Triton 2.51."""
    response.raw_output_contents[-1] = b""


def rename_type(response: Any) -> None:
    response.outputs[0].datatype = "INT64"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_last, "expected the output LABELS, the answer lacks it"),
        (empty_last, r"got UINT8 \(1, 64, 64\) in 0 bytes: look at the server's log"),
        (rename_type, r"expected the output PROBABILITIES as UINT8 or FP32 .*, got INT64 \(1, 5, 16, 16\) in 1280 bytes"),
    ],
)
def test_an_answer_that_cannot_be_read_is_told_and_the_next_one_is_right(spoil: Callable[[Any], None], message: str) -> None:
    with SpoiledTriton(spoil) as server, TileClient(server.address, "painted") as client:
        with pytest.raises(MismatchError, match=message):
            client.segment(tiles(1))
        result = client.segment(tiles(3))
        require_right(result.labels, result.levels)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, TILE_PX, TILE_PX, 3), np.float32),
        np.zeros((TILE_PX, TILE_PX, 3), np.uint8),
        np.zeros((1, 3, TILE_PX, TILE_PX), np.uint8),
        np.zeros((1, TILE_PX, 32, 3), np.uint8),
        [[1]],
    ],
    ids=["dtype", "no batch", "NCHW", "size", "list"],
)
def test_arrays_that_are_no_tiles_are_refused_unsent(wrong: Any) -> None:
    with PaintedTriton(contract()) as server, TileClient(server.address, "painted") as client:
        with pytest.raises(TilesError, match=r"expected uint8 \(n, 64, 64, 3\), RGB at 0.5 µm per pixel, got"):
            client.segment(wrong)
        assert server.requests == []


def test_a_deadline_ends_the_waiting_and_cancels_nothing() -> None:
    with PaintedTriton(contract(), delay_s=lambda number: 0.3) as server, TileClient(server.address, "painted", in_flight=1) as client:
        client.contract()
        with pytest.raises(DeadlineError, match="3 of 3 requests had no answer"):
            client.segment(tiles(24), deadline_s=0.1)
        result = client.segment(tiles(2))
        require_right(result.labels, result.levels)
        assert [count for _, count, _ in server.requests] == [8, 2]  # the other two were never sent


def test_a_deadline_counts_while_servers_are_away() -> None:
    with TileClient(f"127.0.0.1:{free_port()}", "painted") as client, pytest.raises(DeadlineError, match="until the deadline"):
        client.segment(tiles(1), deadline_s=0.1)


def test_closing_waits_for_what_is_on_the_way_and_refuses_the_rest() -> None:
    with PaintedTriton(contract(), delay_s=lambda number: 0.3) as server, ThreadPoolExecutor(1) as pool:
        client = TileClient(server.address, "painted", in_flight=1)
        client.contract()
        waiting = pool.submit(client.segment, tiles(16))
        while not server.requests:
            threading.Event().wait(0.01)
        client.close()
        with pytest.raises(ClosedError):
            waiting.result()
        assert server._inside == 0
        assert len(server.requests) == 1
        with pytest.raises(ClosedError):
            client.segment(tiles(1))


def test_servers_take_turns_and_one_that_goes_away_is_passed_over() -> None:
    with (
        PaintedTriton(contract()) as first,
        PaintedTriton(contract()) as second,
        TileClient([first.address, second.address], "painted") as client,
    ):
        client.segment(tiles(64))
        assert (len(first.requests), len(second.requests)) == (4, 4)
        second._server.stop(None).wait()
        result = client.segment(tiles(64))
        require_right(result.labels, result.levels)
        assert len(first.requests) == 12


def test_servers_of_different_models_do_not_take_turns() -> None:
    with (
        PaintedTriton(contract()) as first,
        PaintedTriton(contract(mpp=1.0)) as second,
        TileClient([first.address, second.address], "painted") as client,
        pytest.raises(MismatchError, match="must serve the same model"),
    ):
        client.segment(tiles(32))


def test_headers_go_with_every_request() -> None:
    headers = {"Authorization": "Bearer word"}
    with PaintedTriton(contract()) as server, TileClient(server.address, "painted", headers=headers) as client:
        client.segment(tiles(1))
        assert server.token == "Bearer word"


def test_a_large_image_is_stitched() -> None:
    """Straight edges on cell borders: the mask is the painted one."""
    labels = stripes((150, 410), margin=40)
    with PaintedTriton(contract()) as server, TileClient(server.address, "painted") as client:
        result = client.segment_image(png(paint(labels)))
        np.testing.assert_array_equal(result.labels, labels)
        assert result.levels.shape == (5, 38, 103)
        np.testing.assert_array_equal(result.levels.argmax(axis=0)[:37, :102], labels[:148:CELL_PX, :408:CELL_PX])
        assert {model for model, _, _ in server.requests} == {"painted_r1_segment_slide"}


def test_an_image_smaller_than_a_tile() -> None:
    with PaintedTriton(contract()) as server, TileClient(server.address, "painted") as client:
        result = client.segment_image(png(paint(np.full((10, 20), 3, np.uint8))))
    assert (result.labels == 3).all()
    assert result.labels.shape == (10, 20)


def damaged() -> bytes:
    data = bytearray(png(paint(stripes((150, 150), margin=40))))
    data[len(data) // 2] ^= 255
    return bytes(data)


def transparent() -> bytes:
    file = BytesIO()
    Image.new("RGBA", (80, 80), (1, 2, 3, 4)).save(file, "PNG")
    return file.getvalue()


def deep() -> bytes:
    file = BytesIO()
    Image.fromarray(np.zeros((80, 80), np.uint16)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected the bytes of a JPEG or PNG file, got 0 bytes"),
        (b"GIF89a..", "begin with 47 49 46 38 39 61 2e 2e"),
        (png(np.zeros((100, 101, 3), np.uint8)), "expected at most 10000 pixels, got 101 × 100: cut it"),
        (png(paint(stripes((90, 90), margin=40)))[:-30], "damaged or cut off"),
        (transparent(), "expected opaque pixels"),
        (deep(), "8 bits"),
    ],
    ids=["empty", "GIF", "large", "cut off", "transparent", "16 bits"],
)
def test_images_that_are_refused(data: bytes, message: str) -> None:
    with PaintedTriton(contract()) as server, TileClient(server.address, "painted", limits=PictureLimits(10_000)) as client:
        with pytest.raises(ImageFileError, match=message):
            client.segment_image(data)
        assert server.requests == []


def test_a_damaged_image_is_refused() -> None:
    with (
        PaintedTriton(contract()) as server,
        TileClient(server.address, "painted") as client,
        pytest.raises(ImageFileError, match="damaged"),
    ):
        client.segment_image(damaged())


def test_an_image_ends_at_its_deadline() -> None:
    data = png(paint(stripes((400, 400), margin=40)))
    with PaintedTriton(contract(), delay_s=lambda number: 0.3) as server, TileClient(server.address, "painted", in_flight=1) as client:
        client.contract()
        with pytest.raises(DeadlineError):
            client.segment_image(data, deadline_s=0.4)
        assert len(server.requests) <= 3


def test_tasks_share_a_client() -> None:
    async def call() -> None:
        async with AsyncTileClient(server.address, "painted", in_flight=3) as client:
            await asyncio.gather(*(_segment(client, count) for count in (0, 5, 20, 64)))
            image = await client.segment_image(png(paint(np.full((70, 20), 2, np.uint8))))
            assert (image.labels == 2).all()
            assert await client.contract() == contract()

    with PaintedTriton(contract()) as server:
        asyncio.run(call())
        assert server.most_at_once <= 3


def test_a_canceled_task_leaves_its_request_to_finish() -> None:
    async def call() -> None:
        async with AsyncTileClient(server.address, "painted", in_flight=1) as client:
            await client.contract()
            task = asyncio.create_task(client.segment(tiles(24)))
            while not server.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert server._inside == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.segment(tiles(1))
            await _segment(client, 3)

    with PaintedTriton(contract(), delay_s=lambda number: 0.3) as server:
        asyncio.run(call())
        assert [count for _, count, _ in server.requests] == [8, 3]


def test_tasks_get_the_same_errors() -> None:
    async def call() -> None:
        async with AsyncTileClient(server.address, "painted", patience_s=0) as client:
            with pytest.raises(FailedError):
                await client.segment(tiles(9))
            with pytest.raises(TilesError):
                await client.segment(tiles(1)[0])
            with pytest.raises(ImageFileError):
                await client.segment_image(b"")
            with pytest.raises(MissingModelError):
                await client.cam(tiles(1))
            with pytest.raises(DeadlineError, match="1 of 1 requests"):
                await client.segment(tiles(1), deadline_s=0.05)

    with PaintedTriton(contract(), failures=[BROKEN], delay_s=lambda number: 0.3 * (number > 1)) as server:
        asyncio.run(call())


async def _segment(client: AsyncTileClient, count: int) -> None:
    result = await client.segment(tiles(count))
    require_right(result.labels, result.levels)


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    own = {name for name, kind in vars(call_errors).items() if isinstance(kind, type) and issubclass(kind, CallError)}
    told = {word for word in (call_errors.__doc__ or "").split() if word.endswith("Error")} - {
        "ClientError",
        "a",
        "ValueError",
        "TimeoutError",
    }
    assert own == told


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        TileClient([], "painted")
    with pytest.raises(ValueError, match="in_flight: expected at least 1, got 0"):
        TileClient("127.0.0.1:1", "painted", in_flight=0)
    with pytest.raises(ValueError, match="patience_s"):
        TileClient("127.0.0.1:1", "painted", patience_s=-1)
    with pytest.raises(ValueError, match="--tls-cert: expected --tls-key with it"):
        Tls(certificate=tmp_path / "own.pem")
    with pytest.raises(ValueError, match=r"absent\.pem: expected a PEM file, found none"):
        Tls(authority=tmp_path / "absent.pem")
    with pytest.raises(ValueError, match="max_px"):
        PictureLimits(MAX_PX + 1)
