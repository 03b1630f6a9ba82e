"""The Node.js client, installed from its lock file and built, against the real embedded Triton: its answers are the Python client's, byte for byte."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clients.tile_client import TileClient
from serving.embedded import EmbeddedTriton
from serving.port import free_port
from tests.serving import tiny_release as tiny
from tests.serving.tiny_image import IMAGE_ENTRY, add_image_entry, png

CLIENTS = Path(__file__).parents[2] / "clients"
NPM = shutil.which("npm")
pytestmark = [pytest.mark.slow, pytest.mark.triton, pytest.mark.skipif(NPM is None, reason="needs Node.js with npm, not here")]

SCRIPT = """\
import { readFileSync } from "node:fs";
import { TileClient } from "./dist/index.js";
const [address, model, jobs] = process.argv.slice(2);
const client = new TileClient(address, model, { patienceMs: 500, inFlight: 3 });
const base64 = (values) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
const results = await Promise.all(JSON.parse(jobs).map(async ([call, file, options]) => {
  try {
    const result = await client[call](call === "contract" ? undefined : new Uint8Array(readFileSync(file)), options);
    if (call === "contract") return result;
    return { count: result.count, labels: base64(result.labels), levels: base64(result.levels) };
  } catch (error) {
    return { error: error.name, message: error.message };
  }
}));
client.close();
console.log(JSON.stringify(results));
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, so that nothing is installed into the source."""
    folder = tmp_path_factory.mktemp("node")
    shutil.copytree(CLIENTS / "protos", folder / "protos")
    shutil.copytree(CLIENTS / "node", folder / "node", ignore=shutil.ignore_patterns("node_modules", "dist"))
    assert NPM is not None
    for command in ([NPM, "ci"], [NPM, "run", "build"]):
        done = subprocess.run(command, cwd=folder / "node", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    (folder / "node" / "call.mjs").write_text(SCRIPT)
    return folder / "node"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedTriton]:
    repository = add_image_entry(tiny.write_tiny_release(tmp_path_factory.mktemp("served") / "model_repository"))
    with EmbeddedTriton(repository, [tiny.ENTRY, IMAGE_ENTRY]) as started:
        yield started


def call(package: Path, address: str, *jobs: tuple[str, Path, dict[str, Any]], model: str = "tiny") -> list[dict[str, Any]]:
    told = json.dumps([(name, str(path), options) for name, path, options in jobs])
    done = subprocess.run(["node", "call.mjs", address, model, told], cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def test_its_answers_are_the_python_clients(package: Path, server: EmbeddedTriton, tmp_path: Path) -> None:
    counts = (1, 64, 131, 0)
    jobs: list[tuple[str, Path, dict[str, Any]]] = []
    for count in counts:
        (tmp_path / f"{count}.bin").write_bytes(tiny.random_tiles(count, seed=count).tobytes())
        jobs.append(("segment", tmp_path / f"{count}.bin", {}))
    (tmp_path / "tile.png").write_bytes(png(tiny.random_tiles(1, seed=5)[0]))
    *segmented, image, contract = call(
        package, server.address, *jobs, ("segmentImage", tmp_path / "tile.png", {}), ("contract", tmp_path, {})
    )
    with TileClient(server.address, "tiny") as client:
        results = [client.segment(tiny.random_tiles(count, seed=count)) for count in counts]
        results.append(client.segment_image((tmp_path / "tile.png").read_bytes()))
        expected = client.contract()
    for answer, result in zip([*segmented, image], results, strict=True):
        assert base64.b64decode(answer["labels"]) == result.labels.tobytes()
        assert base64.b64decode(answer["levels"]) == result.levels.tobytes()
    assert [answer["count"] for answer in segmented] == list(counts)
    assert (contract["tilePx"], contract["cellPx"], contract["maxBatch"], contract["mpp"]) == (32, 4, 64, expected.task.mpp)
    assert [(tissue["name"], tuple(tissue["color"])) for tissue in contract["classes"]] == [
        (t.name, t.color) for t in expected.task.classes
    ]


def test_its_errors_are_the_python_clients(package: Path, server: EmbeddedTriton, tmp_path: Path) -> None:
    failing = tiny.random_tiles(1, seed=6)
    failing[0, 0, 0, 0] = tiny.MAX_RED + 1
    (tmp_path / "failing.bin").write_bytes(failing.tobytes())
    (tmp_path / "odd.bin").write_bytes(np.zeros(100, np.uint8).tobytes())
    (tmp_path / "cut.png").write_bytes(png(failing[0])[:-20])
    (tmp_path / "many.bin").write_bytes(tiny.random_tiles(640, seed=7).tobytes())
    found = call(
        package,
        server.address,
        ("segment", tmp_path / "failing.bin", {}),
        ("segment", tmp_path / "odd.bin", {}),
        ("segmentImage", tmp_path / "cut.png", {}),
        ("cam", tmp_path / "odd.bin", {}),
        ("segment", tmp_path / "many.bin", {"deadlineMs": 1}),
    )
    assert [answer["error"] for answer in found] == ["FailedError", "TilesError", "ImageFileError", "MissingModelError", "DeadlineError"]
    assert "expected a Uint8Array of (n, 32, 32, 3), got 100 values" in found[1]["message"]
    assert "damaged or cut off" in found[2]["message"]
    assert server.restarts == ()
    (away,) = call(package, f"127.0.0.1:{free_port()}", ("segment", tmp_path / "odd.bin", {}))
    assert away["error"] == "UnreachableError"


MISUSE = """\
import { TileClient } from "./dist/index.js";
const [address] = process.argv.slice(2);
const tell = async (call) => {
  try {
    return `answered: ${JSON.stringify(await call())}`;
  } catch (error) {
    return `${error.name}: ${error.message}`;
  }
};
const client = new TileClient(address, "tiny", { headers: { Authorization: "Bearer abc" } });
console.log(JSON.stringify([
  await tell(() => new TileClient(address, "tiny", { inFlight: 0 })),
  await tell(() => new TileClient(address, "tiny", { patienceMs: NaN })),
  await tell(() => new TileClient(address, "tiny", { protos: "/nowhere" })),
  await tell(() => client.segment(undefined)),
  await tell(() => client.segment(new Float32Array(32 * 32 * 3))),
  await tell(() => client.segmentImage("tile.png")),
  await tell(async () => (await client.contract()).tilePx),
]));
await client.close();
"""


def test_misuse_is_told_at_once(package: Path, server: EmbeddedTriton) -> None:
    """No window without a place, in which a call would wait for good."""
    (package / "misuse.mjs").write_text(MISUSE)
    done = subprocess.run(["node", "misuse.mjs", server.address], cwd=package, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "RangeError: inFlight: expected an integer of at least 1, got 0",
        "RangeError: patienceMs: expected 0 or more, got NaN",
        "Error: protos: expected grpc_service.proto in /nowhere, found none: give the folder of histoserve's clients/protos as the option protos",
        "TilesError: tiles: expected a Uint8Array of (n, 32, 32, 3), got a value of type undefined",
        "TilesError: tiles: expected a Uint8Array of (n, 32, 32, 3), got a Float32Array",
        "ImageFileError: file: expected the bytes of a file as a Uint8Array, got a value of type string",
        "answered: 32",
    ]
