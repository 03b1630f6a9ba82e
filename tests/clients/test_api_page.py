"""The page for callers: it says what the repository holds, its examples run as they stand, and the protos are tritonclient's."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from clients import api_page
from clients.protos import render
from serving.contract import LABELS, TILE
from serving.embedded import EmbeddedTriton
from serving.exposure import Exposure
from serving.port import free_port
from tests.serving import tiny_release as tiny
from tests.serving.tiny_image import IMAGE_ENTRY, add_image_entry, png


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", api_page.PAGE.read_text(), re.DOTALL)


def test_the_committed_page_is_the_generated_one() -> None:
    assert api_page.PAGE.read_text() == api_page.render(api_page.REPOSITORY), "run `make api`"


def test_the_committed_protos_are_the_installed_tritonclients() -> None:
    for name, text in render.render_all().items():
        assert (render.FOLDER / name).read_text() == text, "run `python -m clients.protos.render`"


def test_another_repository_gives_another_page(tmp_path: Path) -> None:
    page = api_page.render(add_image_entry(tiny.write_tiny_release(tmp_path)), (tiny.ENTRY, IMAGE_ENTRY))
    assert "tiles of 32 × 32 px" in page
    assert "gray (Rec. 601) is above 200, in 4-connected groups of 6 pixels or more" in page
    assert "| `PROBABILITIES` | out | UINT8 | (n, 5, 8, 8) | 255 = certain" in page
    assert "| `IMAGE` | in | BYTES | (n, 1) | one JPEG" in page
    assert "| `tiny_r1_segment_net` | 64 (no limit in the wheel's Triton) | no limit | none |" in page
    assert "default_r" not in page.split("## What is served")[1].split("## Images")[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    repository = add_image_entry(tiny.write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository"))
    with EmbeddedTriton(repository, [IMAGE_ENTRY], exposure=Exposure(http_port=free_port())) as started:
        yield started


@pytest.mark.triton
def test_the_example_runs_as_it_stands(server: EmbeddedTriton, tmp_path: Path) -> None:
    """But for the model's name."""
    tile = tiny.random_tiles(1, seed=1)
    (tmp_path / "tile.png").write_bytes(png(tile[0]))
    example = blocks("python")[0]
    assert len(example.splitlines()) < 20
    script = example.replace("default_segment_image", IMAGE_ENTRY)
    done = subprocess.run(
        [sys.executable, "-c", script, server.address, "tile.png"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    counts = np.bincount(tiny.expected(tile)[LABELS].ravel()).tolist()
    assert done.stdout == f"pixels of each label: {dict(enumerate(counts))}\n", done.stderr


@pytest.mark.triton
def test_the_curl_example_runs_as_it_stands(server: EmbeddedTriton, tmp_path: Path) -> None:
    """But for the model's name and the port."""
    tile = tiny.random_tiles(1, seed=2)
    (tmp_path / "tile.png").write_bytes(png(tile[0]))
    script = (
        blocks("sh")[0].replace("default_segment_image", IMAGE_ENTRY).replace("localhost:8000", f"127.0.0.1:{server.exposure.http_port}")
    )
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels.bin").read_bytes().endswith(tiny.expected(tile)[LABELS].tobytes())


@pytest.mark.triton
@pytest.mark.parametrize(
    ("model", "shape", "datatype", "output", "status", "message"),
    [
        (tiny.RELEASE, (1, 32, 32, 3), "FP32", LABELS, "INVALID_ARGUMENT", "data-type|datatype"),
        (tiny.RELEASE, (1, 32, 31, 3), "UINT8", LABELS, "INVALID_ARGUMENT", "unexpected shape"),
        (tiny.RELEASE, (32, 32, 3), "UINT8", LABELS, "INVALID_ARGUMENT", "shape|batch"),
        (tiny.RELEASE, (65, 32, 32, 3), "UINT8", LABELS, "INVALID_ARGUMENT", "batch-size must be <= 64|batch"),
        (tiny.RELEASE, (1, 32, 32, 3), "UINT8", "NOTHING", "INVALID_ARGUMENT", "unexpected inference output"),
        ("absent_segment", (1, 32, 32, 3), "UINT8", LABELS, "NOT_FOUND", "unknown model"),
    ],
    ids=["dtype", "shape", "no batch", "large batch", "unknown output", "unknown model"],
)
def test_a_wrong_request_gets_the_status_of_the_page(
    server: EmbeddedTriton, model: str, shape: tuple[int, ...], datatype: str, output: str, status: str, message: str
) -> None:
    """And the next good one its answer."""
    tiles = tiny.random_tiles(2, seed=3)
    with grpcclient.InferenceServerClient(server.address) as client:
        given = grpcclient.InferInput(TILE, shape, datatype)
        given.set_data_from_numpy(np.zeros(shape, np.float32 if datatype == "FP32" else np.uint8))
        with pytest.raises(InferenceServerException, match=message) as raised:
            client.infer(model, [given], outputs=[grpcclient.InferRequestedOutput(output)])
        assert raised.value.status() == f"StatusCode.{status}"
        good = grpcclient.InferInput(TILE, tiles.shape, "UINT8")
        good.set_data_from_numpy(tiles)
        np.testing.assert_array_equal(client.infer(tiny.RELEASE, [good]).as_numpy(LABELS), tiny.expected(tiles)[LABELS])
