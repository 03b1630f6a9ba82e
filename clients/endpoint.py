"""One Triton server: a channel, what its entries promise, and its errors as ours. Knows no retry and no other server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from serving.contract import IMAGE, TILE, Contract, ContractError

from .call_errors import AccessError, BusyError, CallError, FailedError, ImageFileError, MismatchError, MissingModelError, UnreachableError
from .served_model import CHANNEL_ARGS, is_temporary, reason_of
from .tls_files import TlsFiles

Arrays = dict[str, npt.NDArray[Any]]
_CONFIG_S = 10.0  # a question without a model behind it: here a deadline is safe (research: serving.md §1.0)


@dataclass(frozen=True)
class Tls(TlsFiles):
    """An encrypted connection, also where no file is given: then by the authorities that gRPC ships."""

    @property
    def channel(self) -> dict[str, Any]:
        return {"ssl": True, **super().channel}


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
        self._headers = {name.lower(): value for name, value in headers.items()}  # gRPC's metadata knows no capitals
        secured = {} if tls is None else tls.channel
        self._client = grpcclient.InferenceServerClient(address, channel_args=CHANNEL_ARGS, **secured)

    def close(self) -> None:
        """Also ends what is on the way."""
        self._client.close()

    def describe(self, name: str) -> Entry:
        """What the server says of an entry.

        Raises:
            CallError: no answer, no such entry, or none of ours.
        """
        try:
            config = self._client.get_model_config(name, headers=self._headers, client_timeout=_CONFIG_S).config
        except InferenceServerException as error:
            self._refuse(error, name)
        try:
            contract = Contract.from_parameters({key: value.string_value for key, value in config.parameters.items()})
        except ContractError as error:
            raise MismatchError(f"{self.address}: model {name!r}: {error}") from error
        return Entry(name, contract, config.max_batch_size)

    def infer_tiles(self, model: str, tiles: npt.NDArray[np.uint8], outputs: Sequence[str]) -> Arrays:
        """One request of tiles (n, H, W, 3), n within the model's batch; waits for the answer.

        Raises:
            CallError: what the server said.
        """
        given = grpcclient.InferInput(TILE, tiles.shape, "UINT8")
        given.set_data_from_numpy(tiles)
        return self._infer(model, given, outputs)

    def infer_image(self, model: str, data: bytes, outputs: Sequence[str]) -> Arrays:
        """One request of one file of a tile; waits for the answer.

        Raises:
            CallError: what the server said.
        """
        given = grpcclient.InferInput(IMAGE, [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[data]], dtype=np.object_))
        return self._infer(model, given, outputs)

    def _infer(self, model: str, given: grpcclient.InferInput, names: Sequence[str]) -> Arrays:
        outputs = [grpcclient.InferRequestedOutput(name) for name in names]
        try:
            answer = self._client.infer(model, [given], outputs=outputs, headers=self._headers)
        except InferenceServerException as error:
            self._refuse(error, model)
        return {name: self._whole(model, name, answer.as_numpy(name)) for name in names}

    def _whole(self, model: str, name: str, values: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        if values is None:
            raise MismatchError(f"{self.address}: model {model!r}: expected the output {name}, the answer lacks it")
        return values

    def _refuse(self, error: InferenceServerException, model: str) -> NoReturn:
        raise self._translate(error, model) from error

    def _translate(self, error: InferenceServerException, model: str) -> CallError:
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
        if "decode step: image" in reason:
            return ImageFileError(told)
        return FailedError(f"{told}: the server's log says more")
