"""FastAPI in front of the very engine of `histoserve segment --engine local`: the server a user would write. Knows no slide.

    PYTHONPATH=<folder with fastapi and uvicorn> python -m benchmarks.peers.http_server --repository R --model peers_segment --port 8123

POST /segment: the bytes of uint8 (n, side, side, 3) → the bytes of PROBABILITIES, uint8 (n, K, h, w). GET /ready: 200.
"""

from __future__ import annotations

import importlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from clients.local_model import LocalModel
from serving.contract import PROBABILITIES


@dataclass(frozen=True)
class HttpConfig:
    """Serve one model."""

    repository: Path
    model: str
    port: int


def make_app(model: LocalModel) -> Any:
    """The application; requests are answered one at a time, by an engine that takes every core."""
    fastapi, routing = importlib.import_module("fastapi"), importlib.import_module("starlette.routing")
    threads = importlib.import_module("starlette.concurrency")
    side, lock = model.contract.task.tile_px, threading.Lock()

    def answer(content: bytes) -> bytes:
        tiles = np.frombuffer(content, dtype=np.uint8).reshape(-1, side, side, 3)
        with lock:
            ((_, outputs),) = model.stream([(None, tiles)], 1)
        levels: bytes = outputs[PROBABILITIES].tobytes()
        return levels

    async def segment(request: Any) -> Any:
        content = await request.body()
        return fastapi.Response(await threads.run_in_threadpool(answer, content), media_type="application/octet-stream")

    async def ready(request: Any) -> Any:
        return fastapi.Response(b"ready")

    return fastapi.FastAPI(routes=[routing.Route("/segment", segment, methods=["POST"]), routing.Route("/ready", ready)])


def main() -> None:
    config = tyro.cli(HttpConfig, prog="http_server")
    app = make_app(LocalModel(config.repository, config.model))
    importlib.import_module("uvicorn").run(app, host="127.0.0.1", port=config.port, log_level="warning")


if __name__ == "__main__":
    main()
