"""The callers' client against the real embedded Triton: tiles, files, threads, tasks, cancels, and one of two servers killed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import trustme
from PIL import Image

from clients.async_tile_client import AsyncTileClient
from clients.call_errors import AccessError, CallError, FailedError, ImageFileError, MissingModelError
from clients.call_results import Segmentation
from clients.endpoint import Tls
from clients.tile_client import TileClient
from serving.contract import LABELS, PROBABILITIES
from serving.embedded import EmbeddedTriton
from serving.exposure import Exposure
from tests.serving import tiny_release as tiny
from tests.serving.processes import with_word
from tests.serving.tiny_image import IMAGE_ENTRY, add_image_entry, png

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_image_entry(tiny.write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository"))


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[EmbeddedTriton]:
    with EmbeddedTriton(repository, [tiny.ENTRY, IMAGE_ENTRY]) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: EmbeddedTriton) -> Iterator[TileClient]:
    with TileClient(server.address, "tiny") as connected:
        yield connected


def require_right(client: TileClient, count: int) -> None:
    tiles = tiny.random_tiles(count, seed=count)
    result, expected = client.segment(tiles), tiny.expected(tiles)
    np.testing.assert_array_equal(result.labels, expected[LABELS])
    np.testing.assert_array_equal(result.levels, expected[PROBABILITIES])


@pytest.mark.parametrize("count", [1, 64, 131])
def test_tiles(client: TileClient, count: int) -> None:
    require_right(client, count)
    assert client.contract() == tiny.contract()


def test_threads(client: TileClient) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda count: require_right(client, count), [3, 70, 1, 20, 64, 5]))


def test_the_file_of_a_tile_is_answered_as_the_tile(client: TileClient) -> None:
    tile = tiny.random_tiles(1, seed=8)
    result = client.segment_image(png(tile[0]))
    np.testing.assert_array_equal(result.labels, tiny.expected(tile)[LABELS][0])
    np.testing.assert_array_equal(result.levels, tiny.expected(tile)[PROBABILITIES][0])


def test_bad_files_are_told_and_the_next_good_one_is_right(client: TileClient) -> None:
    tile = tiny.random_tiles(1, seed=9)
    webp = BytesIO()
    Image.fromarray(tile[0][:16]).save(webp, "WEBP")
    for bad, message in (
        (png(tile[0])[:-20], "damaged or cut off"),
        (b"RIFF....WEBP", "damaged or cut off"),
        (webp.getvalue(), "expected 32 x 32 px, got 32 x 16"),
    ):
        with pytest.raises(ImageFileError, match=message):
            client.segment_image(bad)
        np.testing.assert_array_equal(client.segment_image(png(tile[0])).labels, tiny.expected(tile)[LABELS][0])


def test_a_larger_image_is_stitched_from_the_network_s_answers(client: TileClient) -> None:
    """On a flat color every tile says the same, so the blend does."""
    result = client.segment_image(png(np.full((70, 45, 3), (40, 30, 90), np.uint8)))
    assert result.labels.shape == (70, 45)
    assert (result.levels == np.array([0, 40, 30, 90, 40])[:, None, None]).all()
    assert (result.labels == 3).all()


def test_a_failing_network_and_a_missing_entry(client: TileClient) -> None:
    bad = tiny.random_tiles(3, seed=6)
    bad[1, 0, 0, 0] = tiny.MAX_RED + 1
    with pytest.raises(FailedError, match=r"(ONNX Runtime|OpenVINO)"):
        client.segment(bad)
    with pytest.raises(MissingModelError, match="tiny_cam"):
        client.cam(bad)
    require_right(client, 2)


def test_canceled_tasks_do_no_harm(server: EmbeddedTriton, client: TileClient) -> None:
    """Triton 2.51 can end on a canceled request: none reaches it."""

    async def call() -> None:
        async with AsyncTileClient(server.address, "tiny") as many:
            tiles = tiny.random_tiles(70, seed=1)
            tasks = [asyncio.create_task(many.segment(tiles)) for _ in range(6)]
            for number, task in enumerate(tasks[:4]):
                await asyncio.sleep(0.02 * number)
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers[0], asyncio.CancelledError)
            for number, answer in enumerate(answers):
                if number < 4 and isinstance(answer, asyncio.CancelledError):
                    continue  # a quick server has answered the later ones before they were canceled
                assert isinstance(answer, Segmentation), answer
                np.testing.assert_array_equal(answer.labels, tiny.expected(tiles)[LABELS])

    asyncio.run(call())
    assert server.restarts == ()
    require_right(client, 3)


def test_of_two_servers_one_is_killed(server: EmbeddedTriton, repository: Path) -> None:
    with EmbeddedTriton(repository, [tiny.ENTRY]) as other, TileClient([server.address, other.address], "tiny") as both:
        require_right(both, 130)
        port = f"--grpc-port={other.address.split(':')[1]}"
        (killed,) = [pid for pid, line in with_word(port).items() if Path(line.split()[0]).name == "tritonserver"]
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(require_right, both, count) for count in (130, 200, 64, 70)]
            os.kill(killed, signal.SIGKILL)
            for call in calls:
                call.result()
    assert server.restarts == ()


def test_mutual_tls(repository: Path, tmp_path: Path) -> None:
    """Also that no other authority is believed, and nobody without a certificate."""
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    other.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    for name, pair in (("server", authority.issue_cert("127.0.0.1")), ("own", authority.issue_cert("caller"))):
        pair.cert_chain_pems[0].write_to_path(str(tmp_path / f"{name}.pem"))
        pair.private_key_pem.write_to_path(str(tmp_path / f"{name}.key"))
    ca, own_cert, own_key = tmp_path / "ca.pem", tmp_path / "own.pem", tmp_path / "own.key"
    exposure = Exposure(
        tls_cert=tmp_path / "server.pem", tls_key=tmp_path / "server.key", tls_client_ca=ca, tls_own_cert=own_cert, tls_own_key=own_key
    )
    with EmbeddedTriton(repository, [tiny.ENTRY], exposure=exposure) as server:
        with TileClient(server.address, "tiny", tls=Tls(ca, own_cert, own_key)) as client:
            require_right(client, 3)
        with TileClient(server.address, "tiny", tls=Tls(tmp_path / "other.pem", own_cert, own_key)) as client, pytest.raises(AccessError):
            client.contract()
        for tls in (Tls(ca), None):
            with TileClient(server.address, "tiny", tls=tls, patience_s=0) as client, pytest.raises(CallError):
                client.contract()
