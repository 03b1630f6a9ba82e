"""One Triton server: a channel, what its entries promise, and its errors as ours. Knows no retry and no other server."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from serving.contract import IMAGE, TILE, Contract, ContractError

from .call_errors import (
    AccessError,
    BusyError,
    CallError,
    ClosedError,
    FailedError,
    ImageFileError,
    MismatchError,
    MissingModelError,
    UnreachableError,
)
from .served_model import CHANNEL_ARGS, is_temporary, reason_of
from .tls_files import TlsFiles

Arrays = dict[str, npt.NDArray[Any]]
Given = npt.NDArray[np.uint8] | bytes  # tiles, or the file of one
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype(np.float32)}  # of all that our entries give
_CONFIG_S = 10.0  # a question without a model behind it: here a deadline is safe (research: serving.md §1.0)


@dataclass(frozen=True)
class Tls(TlsFiles):
    """An encrypted connection, also where no file is given: then by the authorities that gRPC ships."""

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        """The files as they are now."""
        return grpc.ssl_channel_credentials(_read(self.authority), _read(self.key), _read(self.certificate))


@dataclass(frozen=True)
class Entry:
    """A served model as its configuration tells it."""

    name: str
    contract: Contract
    max_batch: int

    def misfit(self, other: Entry) -> str | None:
        """Why answers of the other cannot stand beside this one's; None where they can. Releases may differ: one is being rolled out."""
        mine = (self.max_batch, self.contract.task, self.contract.kind, self.contract.cell_px, self.contract.takes)
        its = (other.max_batch, other.contract.task, other.contract.kind, other.contract.cell_px, other.contract.takes)
        names = ("max_batch_size", "task", "kind", "cell_px", "input")
        return next((f"expected {name} {a!r}, got {b!r}" for name, a, b in zip(names, mine, its, strict=True) if a != b), None)


class Endpoint:
    """A channel to one server; may be used from any thread. Requests carry no deadline and are never canceled.

    Args:
        headers: sent with every request, e.g. {"authorization": "Bearer …"}.
    """

    def __init__(self, address: str, tls: Tls | None, headers: Mapping[str, str]) -> None:
        self.address = address
        self._headers = tuple((name.lower(), value) for name, value in headers.items())  # gRPC's metadata knows no capitals
        self._channel = (
            grpc.insecure_channel(address, CHANNEL_ARGS) if tls is None else grpc.secure_channel(address, tls.credentials, CHANNEL_ARGS)
        )
        # Triton's protocol itself: what tritonclient puts around it costs more than all that this client does (README, figures).
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Also ends what is on the way."""
        self._channel.close()

    def describe(self, name: str) -> Entry:
        """What the server says of an entry.

        Raises:
            CallError: no answer, no such entry, or none of ours.
        """
        asked = service_pb2.ModelConfigRequest(name=name)
        try:
            config = self._stub.ModelConfig(asked, metadata=self._headers, timeout=_CONFIG_S).config
        except grpc.RpcError as error:
            raise self._translate(error, name) from error
        try:
            contract = Contract.from_parameters({key: value.string_value for key, value in config.parameters.items()})
        except ContractError as error:
            raise MismatchError(f"{self.address}: model {name!r}: {error}") from error
        return Entry(name, contract, config.max_batch_size)

    def infer(self, request: Any) -> Arrays:
        """One request of `request_of`; waits for the answer.

        Raises:
            CallError: what the server said, or an answer that cannot be read.
        """
        try:
            answer = self._stub.ModelInfer(request, metadata=self._headers)
        except grpc.RpcError as error:
            raise self._translate(error, request.model_name) from error
        came = {tensor.name: (tensor, raw) for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=False)}
        return {output.name: self._array(request.model_name, output.name, came) for output in request.outputs}

    def _array(self, model: str, name: str, came: Mapping[str, tuple[Any, bytes]]) -> npt.NDArray[Any]:
        """An output over the bytes that came; read-only."""
        if name not in came:
            raise MismatchError(f"{self.address}: model {model!r}: expected the output {name}, the answer lacks it")
        tensor, raw = came[name]
        try:
            return np.frombuffer(raw, _DTYPES[tensor.datatype]).reshape(tuple(tensor.shape))
        except (KeyError, ValueError) as error:
            raise MismatchError(
                f"{self.address}: model {model!r}: expected the output {name} as UINT8 or FP32 with as many bytes as its shape says, "
                f"got {tensor.datatype} {tuple(tensor.shape)} in {len(raw)} bytes: look at the server's log, its python steps may have the wrong numpy"
            ) from error

    def _translate(self, failure: grpc.RpcError, model: str) -> CallError:
        error = InferenceServerException(failure.details() or "", status=str(failure.code()))
        status, reason = str(error.status() or ""), reason_of(error)
        told = f"{self.address}: model {model!r}: {reason}"
        if "UNAUTHENTICATED" in status or "PERMISSION_DENIED" in status or "restricted" in reason or "CERTIFICATE_VERIFY" in reason:
            return AccessError(f"{told}: give the certificates as tls and the token in headers")
        if "Exceeds maximum queue size" in reason:
            return BusyError(f"{told}: send less at a time, or later")
        if is_temporary(error):
            return UnreachableError(f"{told}: start a server with `histoserve serve`, or correct the address")
        if "NOT_FOUND" in status or "unknown model" in reason:
            return MissingModelError(f"{told}: check the model's name, or serve it with `histoserve serve --model`")
        if "CANCELLED" in status and "Channel closed" in reason:
            return ClosedError(f"{told}: the client was closed, and the answer did not come in the time that it waits for one")
        if "decode step: image" in reason:
            return ImageFileError(told)
        return FailedError(f"{told}: the server's log says more")


def request_of(model: str, given: Given, outputs: Sequence[str]) -> Any:
    """One request as Triton's protocol has it, with a copy of what is given.

    Args:
        given: tiles (n, H, W, 3), n within the model's batch, or the file of one tile.
    """
    tensor = service_pb2.ModelInferRequest.InferInputTensor
    if isinstance(given, bytes):
        content = struct.pack("<I", len(given)) + given  # how the protocol writes a string of bytes
        described = tensor(name=IMAGE, datatype="BYTES", shape=(1, 1))
    else:
        content = given.tobytes()
        described = tensor(name=TILE, datatype="UINT8", shape=given.shape)
    requested = [service_pb2.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs]
    return service_pb2.ModelInferRequest(model_name=model, inputs=[described], outputs=requested, raw_input_contents=[content])


def _read(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
