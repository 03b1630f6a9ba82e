"""A server in another process that speaks Triton's protocol and answers at once: what is left is the client's own cost."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc

from serving.contract import PROBABILITIES, Contract
from serving.probabilities import quantize
from serving.tasks import get_task
from training.slides import draw_slide_labels

NULL_MODEL = "null_segment"
_CELL_PX, _MAX_BATCH = 4, 64


class NullTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # generated without types
    """Speaks Triton's protocol; says the same of every tile: regions of the classes with soft borders."""

    def __init__(self) -> None:
        task = get_task("demo")
        self.contract = Contract(task, "segment", "null", _CELL_PX, release="null_r1_segment", slide_model="null_r1_segment_slide")
        side, first = task.tile_px * 3, self.contract.grid_cells
        labels = draw_slide_labels(np.random.default_rng(2), (side, side))[::_CELL_PX, ::_CELL_PX]
        cells = labels[first : 2 * first, first : 2 * first]
        soft = np.eye(len(task.classes) + 1, dtype=np.float32)[cells].transpose(2, 0, 1)
        soft = np.mean([np.roll(soft, shift, (1, 2)) for shift in ((0, 0), (1, 0), (0, 1), (1, 1))], axis=0, dtype=np.float32)
        self.tile = quantize(soft)

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        return service_pb2.ServerMetadataResponse(name="null", version="1")

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = service_pb2.ModelConfigResponse()
        response.config.max_batch_size = _MAX_BATCH
        response.config.backend = "null"
        for key, value in self.contract.to_parameters().items():
            response.config.parameters[key].string_value = value
        return response

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        count = request.inputs[0].shape[0]
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name=PROBABILITIES, datatype="UINT8", shape=(count, *self.tile.shape))
        response.raw_output_contents.append(self.tile.tobytes() * count)
        return response


def _serve_null(address: Any, stop: Any) -> None:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(4), options=unlimited)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(NullTriton(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    address.send(f"127.0.0.1:{port}")
    stop.wait()
    server.stop(None).wait()


@contextmanager
def null_server() -> Iterator[str]:
    """The address of a server in another process, that answers at once."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    stop = context.Event()
    process = context.Process(target=_serve_null, args=(there, stop), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        stop.set()
        process.join()
