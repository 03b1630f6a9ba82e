"""The page for callers: it says what the repository holds, its examples run as they stand, and the protos are tritonclient's."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

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


def curl_example(server: EmbeddedTriton) -> str:
    """As it stands, but for the model's name and the port."""
    script = blocks("sh")[0].replace("default_segment_image", IMAGE_ENTRY)
    return script.replace("localhost:8000", f"127.0.0.1:{server.exposure.http_port}")


@pytest.mark.triton
def test_the_curl_example_runs_as_it_stands(server: EmbeddedTriton, tmp_path: Path) -> None:
    tile = tiny.random_tiles(1, seed=2)
    (tmp_path / "tile.png").write_bytes(png(tile[0]))
    done = subprocess.run(["bash", "-c", curl_example(server)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "labels.bin").read_bytes().endswith(tiny.expected(tile)[LABELS].tobytes())


@pytest.mark.triton
def test_the_curl_example_tells_the_reason(server: EmbeddedTriton, tmp_path: Path) -> None:
    (tmp_path / "tile.png").write_bytes(png(tiny.random_tiles(1, seed=2)[0][:, :16]))
    done = subprocess.run(["bash", "-c", curl_example(server)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "decode step: image 1 of 1: expected 32 x 32 px, got 16 x 32" in json.loads(done.stdout)["error"]
    assert "400" in done.stderr


def status_of(url: str, data: bytes = b"", headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers or {})) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.triton
def test_the_statuses_of_http_are_those_of_the_page(server: EmbeddedTriton) -> None:
    """But for UNAVAILABLE: a full queue, or a server that is stopping."""
    told = dict(re.findall(r"(\d{3})\s+for (what is restricted|[A-Z_]+)", api_page.PAGE.read_text()))
    base = f"http://127.0.0.1:{server.exposure.http_port}/v2"
    red = np.full((1, tiny.TILE_PX, tiny.TILE_PX, 3), tiny.MAX_RED + 1, np.uint8).tobytes()

    def infer(model: str, side: int) -> int:
        tensor = {"name": TILE, "shape": [1, side, tiny.TILE_PX, 3], "datatype": "UINT8", "parameters": {"binary_data_size": len(red)}}
        head = json.dumps({"inputs": [tensor]}).encode()
        return status_of(f"{base}/models/{model}/infer", head + red, {"Inference-Header-Content-Length": str(len(head))})

    found = {
        infer(tiny.SLIDE, 31): "INVALID_ARGUMENT",
        infer("absent", tiny.TILE_PX): "NOT_FOUND",
        infer(tiny.SLIDE, tiny.TILE_PX): "INTERNAL",
        status_of(f"{base}/repository/index"): "what is restricted",
    }
    assert {int(status): what for status, what in told.items() if what != "UNAVAILABLE"} == found
