"""A Triton model as a load's target: requests made beforehand, sent without waiting. Knows Triton's client, no statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException, shared_memory

from clients.endpoint import Entry
from clients.served_model import CHANNEL_ARGS, is_temporary, reason_of
from clients.tile_requests import OUTPUTS, output_dtype, output_shape
from serving.contract import IMAGE, SLIDE_OUTPUTS, TILE

from .errors import BenchError, SharedMemoryError
from .load import Done
from .tiles import encode_tile, make_tiles

Memory = Literal["grpc", "shared"]
_DIFFERENT = 16  # requests that are made beforehand and sent in turn
_CHECK_S = 60.0
REJECTED, AWAY, FAILED = "rejected", "away", "failed"


@dataclass(frozen=True)
class Shape:
    """What one request is.

    Attributes:
        batch: tiles in it.
        memory: how the tiles reach the server; answers always come over gRPC.
        priority: 1 is served first; 0 = the model's default.
    """

    batch: int = 1
    memory: Memory = "grpc"
    priority: int = 0


class TritonTarget:
    """Sends the requests in turn. Answers are checked once, in `check`; a load only counts them.

    Args:
        requests: the inputs of each; read only, so that many may be on the way at a time.
    """

    def __init__(
        self, client: grpcclient.InferenceServerClient, entry: Entry, shape: Shape, requests: Sequence[grpcclient.InferInput]
    ) -> None:
        self._client, self._entry, self._shape, self._requests = client, entry, shape, requests
        names = SLIDE_OUTPUTS[entry.contract.kind] if entry.name == entry.contract.slide_model else OUTPUTS[entry.contract.kind]
        self._outputs = [grpcclient.InferRequestedOutput(name) for name in names]

    def send(self, number: int, done: Done) -> None:
        def finish(result: grpcclient.InferResult | None, error: InferenceServerException | None) -> None:
            done(None if error is None and result is not None else error_kind(error))

        given = self._requests[number % len(self._requests)]
        self._client.async_infer(self._entry.name, [given], finish, outputs=self._outputs, priority=self._shape.priority)

    def check(self) -> None:
        """One request whose answer is looked at: a server that is fast at wrong shapes must not be timed.

        Raises:
            BenchError: it fails, or the answer is not what the contract promises.
        """
        model, contract = self._entry.name, self._entry.contract
        try:
            answer = self._client.infer(model, [self._requests[0]], outputs=self._outputs, priority=self._shape.priority)
        except InferenceServerException as error:
            raise BenchError(
                f"model {model!r}: the first request ({self._shape}) failed: {reason_of(error)}: the server's log says more"
            ) from error
        for output in self._outputs:
            values, expected = answer.as_numpy(output.name()), (self._shape.batch, *output_shape(output.name(), contract))
            if values is None or values.shape != expected or values.dtype != output_dtype(output.name()):
                came = "none" if values is None else f"{values.dtype} {values.shape}"
                raise BenchError(f"model {model!r}: expected {output.name()} of shape {expected}, got {came}: export the model again")


def error_kind(error: InferenceServerException | None) -> str:
    """Rejected by a queue, away, or failed: what a caller would do differs."""
    if error is None:
        return FAILED
    reason = reason_of(error)
    if "Exceeds maximum queue size" in reason or "Request timeout expired" in reason:
        return REJECTED
    return AWAY if is_temporary(error) else FAILED


@contextmanager
def open_target(address: str, entry: Entry, shape: Shape, admin_headers: Mapping[str, str]) -> Iterator[TritonTarget]:
    """A checked target on a connection of its own.

    Args:
        admin_headers: what opens the shared-memory protocol; for `shape.memory` "shared" only.

    Raises:
        SharedMemoryError: the server takes no shared memory from us.
        BenchError: see `check`.
    """
    with ExitStack() as stack:
        client = grpcclient.InferenceServerClient(address, channel_args=CHANNEL_ARGS)
        stack.callback(client.close)
        arrays = _make_arrays(entry, shape.batch)
        if shape.memory == "shared":
            requests = [stack.enter_context(_shared(client, array, admin_headers)) for array in arrays]
        else:
            requests = [_carried(array) for array in arrays]
        target = TritonTarget(client, entry, shape, requests)
        target.check()
        yield target


def _make_arrays(entry: Entry, batch: int) -> list[npt.NDArray[Any]]:
    """uint8 (batch, tile_px, tile_px, 3) each; of an image entry object (batch, 1), the files."""
    tiles = make_tiles(batch * _DIFFERENT, entry.contract.task.tile_px)
    if entry.contract.takes == "image":
        files = np.array([[encode_tile(tile)] for tile in tiles], dtype=np.object_)
        return list(files.reshape(_DIFFERENT, batch, 1))
    return list(tiles.reshape(_DIFFERENT, batch, *tiles.shape[1:]))


def _carried(array: npt.NDArray[Any]) -> grpcclient.InferInput:
    is_files = array.dtype == np.object_
    given = grpcclient.InferInput(IMAGE if is_files else TILE, list(array.shape), "BYTES" if is_files else "UINT8")
    given.set_data_from_numpy(array)
    return given


@contextmanager
def _shared(
    client: grpcclient.InferenceServerClient, array: npt.NDArray[np.uint8], headers: Mapping[str, str]
) -> Iterator[grpcclient.InferInput]:
    """The tiles in a region that the server maps too; gone after the block."""
    name = f"histoserve-bench-{uuid4().hex}"
    region = shared_memory.create_shared_memory_region(name, f"/{name}", array.nbytes)
    try:
        shared_memory.set_shared_memory_region(region, [array])
        try:
            client.register_system_shared_memory(name, f"/{name}", array.nbytes, headers=dict(headers), client_timeout=_CHECK_S)
        except InferenceServerException as error:
            raise SharedMemoryError(f"the server takes no shared memory from us: {reason_of(error)}") from error
        try:
            given = grpcclient.InferInput(TILE, list(array.shape), "UINT8")
            given.set_shared_memory(name, array.nbytes)
            yield given
        finally:
            client.unregister_system_shared_memory(name, headers=dict(headers), client_timeout=_CHECK_S)
    finally:
        shared_memory.destroy_shared_memory_region(region)
