"""The loop a user would write: OpenSlide's `read_region`, a batch, an answer, an argmax. Knows the engines, no other peer; imports each when asked.

    python -m benchmarks.peers.openslide_loop SLIDE --engine torch|onnxruntime|http|memory|null --networks FOLDER --labels FILE.npy

The last line it prints is JSON: tiles, load_s (network), work_s (all else once it is loaded).
"""

from __future__ import annotations

import concurrent.futures
import http.client
import importlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import openslide
import tyro
from PIL import Image

from clients.local_model import LocalModel
from serving.contract import LABELS, PROBABILITIES, TILE
from serving.probabilities import labels_from_levels

Tiles = npt.NDArray[np.uint8]  # (n, side, side, 3)
Labels = npt.NDArray[np.uint8]  # (n, side, side)
Corner = tuple[int, int]
Engine = Literal["torch", "onnxruntime", "http", "memory", "null"]
_IN_FLIGHT = 4


@dataclass(frozen=True)
class LoopConfig:
    """One slide, every tile, stride = tile."""

    slide: Annotated[Path, tyro.conf.Positional]
    """Its level 0 is the network's scale."""
    engine: Engine
    """memory: the tiles are read beforehand, and the engine of `histoserve segment --engine local` answers them; that alone is work_s."""
    networks: Path
    """What `make_networks` wrote."""
    labels: Path
    """Gets uint8 (height, width)."""
    address: str = ""
    """host:port, of http."""
    batch: int = 16


@dataclass(frozen=True)
class _Network:
    """What the loop needs to know of it."""

    tile_px: int
    cell_px: int
    classes: int
    folder: Path

    @property
    def onnx(self) -> Path:
        return self.folder / "repository" / "peers_r1_segment_net" / "1" / "model.onnx"


def load_torch(network: _Network, config: LoopConfig) -> Callable[[Tiles], Labels]:
    """The torch program, float32, upsampled and argmaxed in torch."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    module = torch.export.load(network.folder / "peers.pt2").module()

    def answer(tiles: Tiles) -> Labels:
        with torch.inference_mode():
            cells = module(torch.from_numpy(tiles)).float()
            pixels = torch.nn.functional.interpolate(cells, scale_factor=float(network.cell_px), mode="bilinear")
            labels: Labels = pixels.argmax(dim=1).to(torch.uint8).numpy()
        return labels

    return answer


def load_onnxruntime(network: _Network, config: LoopConfig) -> Callable[[Tiles], Labels]:
    """ONNX Runtime as it comes, on every core; the graph holds the argmax."""
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(network.onnx), providers=["CPUExecutionProvider"])

    def answer(tiles: Tiles) -> Labels:
        labels: Labels = session.run([LABELS], {TILE: tiles})[0]
        return labels

    return answer


def load_http(network: _Network, config: LoopConfig) -> Callable[[Tiles], Labels]:
    """A server that takes tiles as they are and returns PROBABILITIES; a connection per thread."""
    local = threading.local()
    cells = network.tile_px // network.cell_px

    def answer(tiles: Tiles) -> Labels:
        if not hasattr(local, "connection"):
            local.connection = http.client.HTTPConnection(config.address, timeout=600)
        local.connection.request("POST", "/segment", tiles.tobytes(), {"Content-Type": "application/octet-stream"})
        response = local.connection.getresponse()
        content = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"http://{config.address}: expected status 200, got {response.status}: {content[:200]!r}")
        levels = np.frombuffer(content, dtype=np.uint8).reshape(len(tiles), network.classes + 1, cells, cells)
        return np.stack([labels_from_levels(level, network.cell_px) for level in levels])

    return answer


def load_null(network: _Network, config: LoopConfig) -> Callable[[Tiles], Labels]:
    """The same for every tile."""
    columns = np.arange(network.tile_px) * network.classes // network.tile_px + 1
    stripes = np.broadcast_to(columns.astype(np.uint8), (config.batch, network.tile_px, network.tile_px))
    return lambda tiles: stripes[: len(tiles)]


LOADERS: dict[str, Callable[[_Network, LoopConfig], Callable[[Tiles], Labels]]] = {
    "torch": load_torch,
    "onnxruntime": load_onnxruntime,
    "http": load_http,
    "null": load_null,
}


def read_tile(slide: Any, corner: Corner, side: int) -> npt.NDArray[np.uint8]:
    """(side, side, 3); white outside the slide."""
    region = slide.read_region(corner, 0, (side, side))
    if corner[0] + side <= slide.dimensions[0] and corner[1] + side <= slide.dimensions[1]:
        return np.asarray(region.convert("RGB"))
    page = Image.new("RGB", region.size, (255, 255, 255))
    page.paste(region, mask=region.getchannel("A"))
    return np.asarray(page)


def corners_of(width: int, height: int, side: int) -> list[Corner]:
    """Left upper corners, row by row, of the tiles that cover the slide."""
    return [(x, y) for y in range(0, height, side) for x in range(0, width, side)]


def _batches(slide: Any, side: int, batch: int) -> Iterator[tuple[list[Corner], Tiles]]:
    width, height = slide.dimensions
    corners = corners_of(width, height, side)
    for start in range(0, len(corners), batch):
        part = corners[start : start + batch]
        yield part, np.stack([read_tile(slide, corner, side) for corner in part])


def _answers(
    batches: Iterator[tuple[list[Corner], Tiles]], answer: Callable[[Tiles], Labels], waits: bool
) -> Iterator[tuple[list[Corner], Labels]]:
    """One batch after the other; of a server some at a time, in order."""
    if not waits:
        for corners, tiles in batches:
            yield corners, answer(tiles)
        return
    with concurrent.futures.ThreadPoolExecutor(_IN_FLIGHT) as pool:
        sent: deque[tuple[list[Corner], concurrent.futures.Future[Labels]]] = deque()
        for corners, tiles in batches:
            sent.append((corners, pool.submit(answer, tiles)))
            if len(sent) == _IN_FLIGHT:
                first, future = sent.popleft()
                yield first, future.result()
        for first, future in sent:
            yield first, future.result()


def walk(config: LoopConfig) -> dict[str, float]:
    """Segment the slide; what `main` prints."""
    notes = json.loads((config.networks / "networks.json").read_text(encoding="utf-8"))
    network = _Network(notes["tile_px"], notes["cell_px"], notes["classes"], config.networks)
    start_s = time.monotonic()
    answer = LOADERS[config.engine](network, config)
    loaded_s = time.monotonic()
    tiles, side = 0, network.tile_px
    with openslide.OpenSlide(str(config.slide)) as slide:
        width, height = slide.dimensions
        mask = np.zeros((-(-height // side) * side, -(-width // side) * side), np.uint8)
        for corners, labels in _answers(_batches(slide, side, config.batch), answer, config.engine == "http"):
            for (x, y), label in zip(corners, labels, strict=True):
                mask[y : y + side, x : x + side] = label
            tiles += len(corners)
    np.save(config.labels, mask[:height, :width])
    return {"tiles": tiles, "load_s": loaded_s - start_s, "work_s": time.monotonic() - loaded_s}


def from_memory(config: LoopConfig) -> dict[str, float]:
    """The engine alone: tiles that lie in memory, answers that nobody keeps."""
    notes = json.loads((config.networks / "networks.json").read_text(encoding="utf-8"))
    start_s = time.monotonic()
    model = LocalModel(config.networks / "repository", "peers_segment")
    load_s = time.monotonic() - start_s
    with openslide.OpenSlide(str(config.slide)) as slide:
        batches = [(len(corners), tiles) for corners, tiles in _batches(slide, notes["tile_px"], config.batch)]
    start_s = time.monotonic()
    tiles = sum(count for count, outputs in model.stream(batches, 1) if outputs[PROBABILITIES].any())
    return {"tiles": tiles, "load_s": load_s, "work_s": time.monotonic() - start_s}


def main() -> None:
    config = tyro.cli(LoopConfig, prog="openslide_loop")
    print(json.dumps(from_memory(config) if config.engine == "memory" else walk(config)))


if __name__ == "__main__":
    main()
