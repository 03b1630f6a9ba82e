"""The same tiles and the same file to one real server, by every client: Python's two, Node's, NVIDIA's tritonclient and bare stubs give the same bytes."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient

from benchmarks.node_build import build_node_client
from benchmarks.soak_callers import Habits, Known, NodeCaller
from clients.async_tile_client import AsyncTileClient
from clients.call_results import Segmentation
from clients.tile_client import TileClient
from serving.contract import IMAGE, LABELS, PROBABILITIES, TILE
from serving.embedded import EmbeddedTriton
from tests.serving import tiny_release as tiny
from tests.serving.processes import wait_until
from tests.serving.tiny_image import IMAGE_ENTRY, add_image_entry, png

from .bare import answer_of, files_request, open_channel, right_answer, stub_of, tiles_request

pytestmark = [pytest.mark.slow, pytest.mark.triton]

TILES = tiny.random_tiles(70, seed=21)  # more than the server takes in one request
FILE = png(TILES[0])
LIMIT = 64
CLIENTS = Path(__file__).parents[2] / "clients"
Bytes = tuple[bytes, bytes]  # labels and probabilities

SCRIPT = """\
import { readFileSync } from "node:fs";
import { TileClient } from "./dist/index.js";
const [address, folder] = process.argv.slice(2);
const client = new TileClient(address, "tiny");
const base64 = ({ labels, levels }) => [labels, levels].map((values) => Buffer.from(values).toString("base64"));
const tiles = base64(await client.segment(new Uint8Array(readFileSync(`${folder}/tiles.bin`))));
const file = base64(await client.segmentImage(new Uint8Array(readFileSync(`${folder}/tile.png`))));
client.close();
console.log(JSON.stringify({ tiles, file }));
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    repository = add_image_entry(tiny.write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository"))
    with EmbeddedTriton(repository, [tiny.ENTRY, IMAGE_ENTRY]) as server:
        yield server.address


@pytest.fixture(scope="module")
def right() -> dict[str, Bytes]:
    expected = right_answer(TILES)
    first = right_answer(TILES[:1])
    return {
        "tiles": (expected[LABELS][1], expected[PROBABILITIES][1]),
        "file": (first[LABELS][1], first[PROBABILITIES][1]),
    }


def bytes_of(result: Segmentation) -> Bytes:
    return result.labels.tobytes(), result.levels.tobytes()


def test_tile_client(address: str, right: dict[str, Bytes]) -> None:
    with TileClient(address, "tiny") as client:
        assert {"tiles": bytes_of(client.segment(TILES)), "file": bytes_of(client.segment_image(FILE))} == right


def test_async_tile_client(address: str, right: dict[str, Bytes]) -> None:
    async def ask() -> dict[str, Bytes]:
        async with AsyncTileClient(address, "tiny") as client:
            tiles, file = await asyncio.gather(client.segment(TILES), client.segment_image(FILE))
            return {"tiles": bytes_of(tiles), "file": bytes_of(file)}

    assert asyncio.run(ask()) == right


def test_nvidias_client(address: str, right: dict[str, Bytes]) -> None:
    def ask(client: grpcclient.InferenceServerClient, model: str, given: grpcclient.InferInput, values: np.ndarray) -> Bytes:
        given.set_data_from_numpy(values)
        answer = client.infer(model, [given])
        return answer.as_numpy(LABELS).tobytes(), answer.as_numpy(PROBABILITIES).tobytes()

    with grpcclient.InferenceServerClient(address) as client:
        parts = [ask(client, tiny.ENTRY, grpcclient.InferInput(TILE, part.shape, "UINT8"), part) for part in (TILES[:LIMIT], TILES[LIMIT:])]
        file = ask(client, IMAGE_ENTRY, grpcclient.InferInput(IMAGE, [1, 1], "BYTES"), np.array([[FILE]], dtype=np.object_))
    assert {"tiles": tuple(map(b"".join, zip(*parts, strict=True))), "file": file} == right


def test_bare_stubs(address: str, right: dict[str, Bytes]) -> None:
    with open_channel(address) as channel:
        stub = stub_of(channel)
        parts = [answer_of(stub.ModelInfer(tiles_request(part))) for part in (TILES[:LIMIT], TILES[LIMIT:])]
        file = answer_of(stub.ModelInfer(files_request([FILE])))
    tiles = tuple(b"".join(part[name][1] for part in parts) for name in (LABELS, PROBABILITIES))
    assert {"tiles": tiles, "file": (file[LABELS][1], file[PROBABILITIES][1])} == right


EXAMPLES = {
    "cpp": (("g++", "make", "protoc", "grpc_cpp_plugin"), ["make", "CXXFLAGS=-O0"], ["./segment"]),
    "java": (
        ("javac", "make", "protoc", "grpc_java_plugin"),
        ["make"],
        ["sh", "-c", 'exec java -cp "$(make -s classpath)" Segment "$@"', "sh"],
    ),
}


@pytest.mark.parametrize("language", EXAMPLES)
def test_the_example_in(language: str, address: str, right: dict[str, Bytes], tmp_path: Path) -> None:
    """Built by its own Makefile; its counts are those of the labels, and a wrong file has its reason."""
    tools, build, run = EXAMPLES[language]
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, not here")
    for name in ("examples", "protos"):
        shutil.copytree(CLIENTS / name, tmp_path / name, ignore=shutil.ignore_patterns("build"))
    folder = tmp_path / "examples" / language
    (folder / "tile.png").write_bytes(FILE)
    (folder / "cut.png").write_bytes(FILE[:-20])

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)

    built = call(*build)
    assert built.returncode == 0, built.stdout + built.stderr
    done = call(*run, address, IMAGE_ENTRY, "tile.png")
    counts = np.bincount(np.frombuffer(right["file"][0], np.uint8))
    expected = [f"label {label}: {count} pixels" for label, count in enumerate(counts) if count]
    assert done.stdout.splitlines() == expected, done.stderr
    cut, absent, alone = call(*run, address, IMAGE_ENTRY, "cut.png"), call(*run, address, IMAGE_ENTRY, "absent.png"), call(*run)
    assert (cut.returncode, absent.returncode, alone.returncode) == (1, 1, 2)
    assert "decode step: image 1 of 1: expected " in cut.stderr
    assert "absent.png" in absent.stderr
    assert alone.stderr.startswith("usage: ")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("needs Node.js with npm, not here")
    return build_node_client(tmp_path_factory.mktemp("node"))


def test_node(address: str, right: dict[str, Bytes], package: Path, tmp_path: Path) -> None:
    (package / "ask.mjs").write_text(SCRIPT)
    (tmp_path / "tiles.bin").write_bytes(TILES.tobytes())
    (tmp_path / "tile.png").write_bytes(FILE)
    done = subprocess.run(["node", "ask.mjs", address, str(tmp_path)], cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {name: tuple(map(base64.b64decode, values)) for name, values in told.items()} == right


@pytest.mark.parametrize("wrong", [0, 1])
def test_the_node_caller_of_the_soak_sees_one_wrong_byte(address: str, package: Path, tmp_path: Path, wrong: int) -> None:
    """Of every tile, or of none."""
    expected = tiny.expected(TILES)
    labels = expected[LABELS].copy()
    labels[:, 5, 7] += wrong
    Known(TILES, labels, expected[PROBABILITIES]).write(tmp_path)
    caller = NodeCaller("node 0", package, address, "tiny", tmp_path, Habits((1, 9), 0.2), seed=4)
    caller.start()
    assert wait_until(lambda: caller.counts.answered >= 4, 60)
    caller.finish()
    counts = caller.counts
    assert (counts.error, counts.wrong) == (None, wrong * counts.answered)
    assert counts.sent == counts.answered + counts.abandoned
    assert caller.pid is None
