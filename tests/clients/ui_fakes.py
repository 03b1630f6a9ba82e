"""A server that has all entries of one painted model, and the page on it with a client of its own."""

from __future__ import annotations

import base64
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from aiohttp.test_utils import TestClient, TestServer

from clients.ui.app import make_app
from clients.ui.models import Models
from clients.ui.slides import SlideFolder
from serving.contract import Contract, Kind
from serving.port import free_port

from .fake_triton import FakeTriton
from .painted import contract

KINDS: tuple[Kind, ...] = ("segment", "cam")


class WholeModel(FakeTriton):
    """`painted_segment`, `painted_cam` and their slide models; of any other model in `models` too, under its name.

    Attributes:
        models: what it has entries of; may be changed at any time.
        foreign: of these, models that are not ours.
    """

    def __init__(self, kinds: tuple[Kind, ...] = KINDS, **changed: Any) -> None:
        self.models = {"painted"}
        self.foreign: set[str] = set()
        self.contracts: dict[str, Contract] = {kind: contract(kind, **changed) for kind in kinds}
        super().__init__(next(iter(self.contracts.values())))

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        kind = next((kind for kind in self.contracts if kind in request.name), None)
        model = request.name.split("_")[0]
        if kind is None or model not in self.models:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        self.parameters = {} if model in self.foreign else self.contracts[str(kind)].to_parameters()
        request.name = "painted_segment"
        return super().ModelConfig(request, context)

    def _answer(self, tiles: npt.NDArray[np.uint8], names: list[str]) -> Any:
        response = super()._answer(tiles, [name for name in names if name != "LABELS"])
        if "LABELS" in names:
            labels = np.rint(tiles[..., 0] / 40).astype(np.uint8)
            response.outputs.add(name="LABELS", datatype="UINT8", shape=labels.shape)
            response.raw_output_contents.append(labels.tobytes())
        return response


@asynccontextmanager
async def page_on(
    address: str,
    *,
    names: Callable[[], Sequence[str]] = lambda: ["painted_segment", "painted_cam"],
    slides: Path | None = None,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[TestClient[Any, Any]]:
    """A client of the page, which calls the server at `address`."""
    port = free_port()
    models = Models(address, names, headers=headers, patience_s=0)
    folder = None if slides is None else SlideFolder(slides)
    try:
        server = TestServer(make_app(models, folder, "127.0.0.1", port), host="127.0.0.1", port=port)
        async with TestClient(server) as client:
            yield client
    finally:
        models.close()
        if folder is not None:
            folder.close()


def unpacked(values: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """The inverse of `wire.packed`, as the browser's script does it."""
    return np.frombuffer(zlib.decompress(base64.b64decode(values["bytes"])), np.uint8).reshape(values["shape"])
