"""`TileClient` for asyncio: the same calls awaited, the same threads behind them. A canceled task leaves what was sent to finish."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from serving.contract import Contract, Kind

from .call_results import Activation, Segmentation
from .endpoint import Arrays, Tls
from .picture import PictureLimits
from .tile_client import IN_FLIGHT, PATIENCE_S, TileClient, Tiles, activation, end_of, segmentation
from .tile_requests import answers_of, drop, joined, left_s


class AsyncTileClient:
    """As `TileClient`, argument for argument; an asynchronous context manager. May be used by many tasks, of any loop.

    Canceling a task (or `asyncio.timeout`) drops requests that were not sent and ends the waiting for the others; gRPC sees no cancel.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        model: str,
        *,
        in_flight: int = IN_FLIGHT,
        patience_s: float = PATIENCE_S,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        limits: PictureLimits | None = None,
    ) -> None:
        self._client = TileClient(servers, model, in_flight=in_flight, patience_s=patience_s, tls=tls, headers=headers, limits=limits)

    async def close(self) -> None:
        """As `TileClient.close`, without holding up the loop."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def contract(self, kind: Kind = "segment") -> Contract:
        """As `TileClient.contract`."""
        return (await asyncio.to_thread(self._client.entry, kind)).contract

    async def segment(self, tiles: Tiles, *, deadline_s: float | None = None) -> Segmentation:
        """As `TileClient.segment`."""
        contract, outputs = await self._ask("segment", tiles, deadline_s)
        return segmentation(contract, outputs)

    async def cam(self, tiles: Tiles, *, deadline_s: float | None = None) -> Activation:
        """As `TileClient.cam`."""
        contract, outputs = await self._ask("cam", tiles, deadline_s)
        return activation(contract, outputs)

    async def segment_image(self, data: bytes, *, deadline_s: float | None = None) -> Segmentation:
        """As `TileClient.segment_image`; decoding and stitching happen in a thread, which a canceled task lets run out."""
        stop = threading.Event()
        try:
            return await asyncio.to_thread(self._client.segment_image_until, data, end_of(deadline_s), stop)
        finally:
            stop.set()

    async def _ask(self, kind: Kind, tiles: Tiles, deadline_s: float | None) -> tuple[Contract, Arrays]:
        deadline = end_of(deadline_s)
        entry = await asyncio.to_thread(self._client.entry, kind, until=deadline)
        stop = threading.Event()
        parts = await _await_all(self._client.submit(entry, tiles, stop), deadline, stop)
        return entry.contract, joined(parts, entry.contract)


async def _await_all(sent: Sequence[Future[Arrays]], deadline: float | None, stop: threading.Event) -> list[Arrays]:
    """`tile_requests.await_all` without holding up the loop."""
    waiting = [asyncio.wrap_future(future) for future in sent]
    try:
        if waiting:
            await asyncio.wait(waiting, timeout=left_s(deadline), return_when=asyncio.FIRST_EXCEPTION)
        return answers_of(sent)
    finally:
        drop(sent, stop)
        _forget(waiting)
        del sent, waiting  # as in `await_all`; here of every canceled task


def _forget(waiting: Sequence[asyncio.Future[Arrays]]) -> None:
    """Their ends are no longer told to the loop, which may be gone by then; nor is an error logged as one that nobody has asked for."""
    for answer in waiting:
        if not answer.cancel() and not answer.cancelled():
            answer.exception()
