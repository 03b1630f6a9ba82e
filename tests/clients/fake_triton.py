"""A gRPC server that speaks Triton's protocol and answers what the tile's colors say. Stands in for the network alone, never for our own parts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent import futures
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.contract import Contract

from .painted import CELL_PX, TILE_PX, answers

Failure = tuple[grpc.StatusCode, str]
MODEL = "painted_segment"


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    """A context manager with an `address`.

    Args:
        failures: given to the first requests instead of an answer, one each; None = answer that one.
        delay_s: how long each request takes, from its number.
        cells: cells per side of the answers; another number than the contract's is a broken server.
        version: what it says of itself.

    Attributes:
        port: to listen on; 0 = any that is free.
        requests: (model, tiles, outputs) of every inference request, in the order of arrival.
        most_at_once: the highest number of requests that were inside at a time.
    """

    def __init__(
        self,
        contract: Contract,
        *,
        failures: list[Failure | None] | None = None,
        delay_s: Callable[[int], float] = lambda number: 0.0,
        parameters: dict[str, str] | None = None,
        cells: int = TILE_PX // CELL_PX,
        version: str = "1",
    ) -> None:
        self.version = version
        self.contract = contract
        self.parameters = contract.to_parameters() if parameters is None else parameters
        self.failures = list(failures or [])
        self.delay_s = delay_s
        self.port = 0
        self.cells = cells
        self.requests: list[tuple[str, int, list[str]]] = []
        self.most_at_once = 0
        self._inside = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port(f'127.0.0.1:{self.port}')}"
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop(None).wait()

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerMetadataResponse(name="fake", version=self.version)

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        if request.name not in (MODEL, self.contract.slide_model):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        response = service_pb2.ModelConfigResponse()
        response.config.max_batch_size = 8
        response.config.backend = "painted"
        for key, value in self.parameters.items():
            response.config.parameters[key].string_value = value
        return response

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            number = len(self.requests)
            self.requests.append((request.model_name, request.inputs[0].shape[0], [output.name for output in request.outputs]))
            failure = self.failures.pop(0) if self.failures else None
            self._inside += 1
            self.most_at_once = max(self.most_at_once, self._inside)
        time.sleep(self.delay_s(number))
        with self._lock:
            self._inside -= 1
        if failure is not None:
            context.abort(*failure)
        tiles = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(tuple(request.inputs[0].shape))
        return self._answer(tiles, [output.name for output in request.outputs])

    def _answer(self, tiles: npt.NDArray[np.uint8], names: list[str]) -> Any:
        arrays = answers(tiles, self.cells)
        response = service_pb2.ModelInferResponse()
        for name in names:
            array = np.ascontiguousarray(arrays[name])
            response.outputs.add(name=name, datatype="UINT8" if array.dtype == np.uint8 else "FP32", shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response
