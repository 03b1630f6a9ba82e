"""`FakeTriton` that also maps shared memory, behind a secret as ours does, and reads it when the model runs, not when the request comes."""

from __future__ import annotations

import mmap
import os
import time
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2

from clients.shared_tiles import SHM

from .fake_triton import FakeTriton

SECRET = {"triton-grpc-protocol-admin": "open"}


class SharingTriton(FakeTriton):
    """Its words are those of Triton 2.51.

    Attributes:
        regions: what it has mapped, by name.
        told: how many it was told of in all.
        ways: of every request, the name of its region; None = tiles in the message.
        admin_headers: what opens its shared memory, under the embedded server's name for that.
        forget_at: number of the request before which it is started again: it has mapped nothing anymore.
    """

    forget_at = -1
    admin_headers = SECRET

    def __enter__(self) -> Self:
        self.regions: dict[str, mmap.mmap] = {}
        self.told = 0
        self.ways: list[str | None] = []
        return super().__enter__()

    def SystemSharedMemoryRegister(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._require_secret(context)
        descriptor = os.open(SHM / request.key.removeprefix("/"), os.O_RDWR)
        self.regions[request.name] = mmap.mmap(descriptor, request.byte_size)
        os.close(descriptor)
        self.told += 1
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._require_secret(context)
        self.regions.pop(request.name, None)
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            if len(self.ways) == self.forget_at:
                self.regions.clear()
            name = request.inputs[0].parameters["shared_memory_region"].string_param or None
            self.ways.append(name)
            region = None if name is None else self.regions.get(name)
        if name is None:
            return super().ModelInfer(request, context)
        if region is None:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Unable to find shared memory region: '{name}'")
        time.sleep(0.02)  # whoever writes on before the answer is read wrong
        size = request.inputs[0].parameters["shared_memory_byte_size"].int64_param
        request.raw_input_contents.append(region[:size])
        return super().ModelInfer(request, context)

    def _require_secret(self, context: grpc.ServicerContext) -> None:
        if not SECRET.items() <= dict(context.invocation_metadata()).items():
            context.abort(grpc.StatusCode.UNAVAILABLE, "This protocol is restricted, expecting header 'triton-grpc-protocol-admin'")
