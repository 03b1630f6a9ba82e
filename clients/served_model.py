"""Tiles to one served model and back, a bounded number of batches in flight. Several servers: `replicas.py`; for callers: `tile_client.py`."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from serving.contract import CAM, PROBABILITIES, SCORES, SLIDE_OUTPUTS, TILE, Contract, ContractError

from .errors import AwayError, ServerError
from .header_file import SendHeaders
from .shared_tiles import SharedTiles
from .tls_files import TlsFiles

Tag = TypeVar("Tag")
Outputs = dict[str, npt.NDArray[Any]]

# A list of arguments replaces tritonclient's defaults, and with them its message sizes (research: serving.md §1.8).
CHANNEL_ARGS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),
]
_NO_TLS = TlsFiles()
_CONNECT_S = 10.0
RETRY_WAITS_S = (0.25, 0.5, 1, 2, 4, 8, 8, 8, 8, 8)  # a server that restarts is back within these
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sent(Generic[Tag]):
    tag: Tag
    tiles: npt.NDArray[np.uint8]
    answer: Future[Outputs]


@dataclass(frozen=True)
class Promise:
    """What one server says of a model.

    Attributes:
        engine: the server's version and what its steps run in, e.g. "triton 2.51.0: onnxruntime".
    """

    address: str
    contract: Contract
    max_batch: int
    engine: str


class ServedModel:
    """Calls one served model; a context manager. What the model is, it learns from the server's contract and from nowhere else.

    Requests carry no deadline and are never canceled: Triton before 2.53 can crash on either (research: serving.md §1.0).

    Args:
        address: of the server's gRPC, "host:port".
        model: the callers' entry, e.g. "demo_segment".
        tls: encrypts the connection; the server's certificate must name the address's host.
        shared_by: gRPC metadata that opens the shared-memory protocol of a server that runs on this machine as this user: tiles travel in
            shared memory then, where there is room. None = in messages.
        headers: gRPC metadata of every request, e.g. {"authorization": "Bearer …"}; names in small letters.

    Attributes:
        promise: what the server said at the start; `contract`, `max_batch` and `engine` are its.

    Raises:
        AwayError: nothing answers there.
        ServerError: the model is not served or not ours.
    """

    def __init__(
        self,
        address: str,
        model: str,
        tls: TlsFiles = _NO_TLS,
        shared_by: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address
        self.model = model
        self._has_given_up = threading.Event()
        self._client = grpcclient.InferenceServerClient(address, channel_args=CHANNEL_ARGS, **tls.channel)
        if headers:
            self._client.register_plugin(SendHeaders(headers))
        self._shared = None if shared_by is None else SharedTiles(self._client, shared_by, address)
        try:
            self.promise = self.read()
        except BaseException:
            self._client.close()
            raise
        self.contract, self.max_batch, self.engine = self.promise.contract, self.promise.max_batch, self.promise.engine

    def read(self) -> Promise:
        """What the server serves now; the attributes stay what they were.

        Raises:
            AwayError: nothing answers there.
            ServerError: the model is not served or not ours.
        """
        max_batch, contract = self._read_contract()
        return Promise(self.address, contract, max_batch, self._read_engine(contract))

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()
        self._client.close()

    def give_up(self) -> None:
        """No longer wait for a server that is away: whoever streams gets its error at once. May be called from any thread."""
        self._has_given_up.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def stream(self, batches: Iterable[tuple[Tag, npt.NDArray[np.uint8]]], in_flight: int) -> Iterator[tuple[Tag, Outputs]]:
        """Send tiles to the release's slide model and give the answers in the order of the batches.

        Args:
            batches: a tag, which comes back as it is, and uint8 tiles (n, tile_px, tile_px, 3), n ≤ `max_batch`.
            in_flight: batches that may be on the way at a time; the next is asked for only when there is room.

        Raises:
            ServerError: the server refuses a batch, or stays away for half a minute.
        """
        waiting: deque[_Sent[Tag]] = deque()
        try:
            for tag, tiles in batches:
                waiting.append(_Sent(tag, tiles, self.send(tiles)))
                if len(waiting) >= in_flight:
                    first = waiting.popleft()
                    yield first.tag, self._receive(first)
            while waiting:
                first = waiting.popleft()
                yield first.tag, self._receive(first)
        finally:
            wait([sent.answer for sent in waiting])  # closing the channel would cancel them

    def send(self, tiles: npt.NDArray[np.uint8]) -> Future[Outputs]:
        """One request of tiles (n, tile_px, tile_px, 3), n ≤ `max_batch`; the future fails with tritonclient's InferenceServerException."""
        tile = grpcclient.InferInput(TILE, tiles.shape, "UINT8")
        slot = None if self._shared is None else self._shared.lend(tiles.nbytes)
        if slot is None:
            tile.set_data_from_numpy(np.ascontiguousarray(tiles))
        else:
            slot.hold(tiles, tile)
        names = SLIDE_OUTPUTS[self.contract.kind]
        answer: Future[Outputs] = Future()

        def finish(result: grpcclient.InferResult | None, error: InferenceServerException | None) -> None:
            if self._shared is not None and slot is not None:
                self._shared.give_back(slot)
            if error is not None or result is None:
                answer.set_exception(error or InferenceServerException("no result"))
            else:
                answer.set_result({name: result.as_numpy(name) for name in names})

        outputs = [grpcclient.InferRequestedOutput(name) for name in names]
        self._client.async_infer(self.contract.slide_model, [tile], finish, outputs=outputs)
        return answer

    def _receive(self, sent: _Sent[Tag]) -> Outputs:
        answer = sent.answer
        for wait_s in (*RETRY_WAITS_S, None):
            try:
                return self.check(answer.result(), len(sent.tiles))
            except InferenceServerException as error:
                is_lost = self._shared is not None and self._shared.is_lost(reason_of(error))
                if wait_s is None or self._has_given_up.is_set() or not (is_lost or is_temporary(error)):
                    raise self.failure(error) from error
                rest_s = 0.0 if is_lost else wait_s
                _log.warning("%s: %s; the batch is sent again in %.3g s", self.address, reason_of(error), rest_s)
                self._has_given_up.wait(rest_s)
                answer = self.send(sent.tiles)
        raise AssertionError("unreachable: the last try returns or raises")

    def failure(self, error: InferenceServerException) -> ServerError:
        """The server's last word on a batch."""
        return ServerError(f"{self.address}: model {self.contract.slide_model!r} failed on a batch: {reason_of(error)}")

    def check(self, outputs: Outputs, count: int) -> Outputs:
        """Refuse an answer of a shape that the contract does not promise: a stub with the wrong numpy sends such.

        Raises:
            ServerError: it is of another shape.
        """
        grid, classes = self.contract.grid_cells, len(self.contract.task.classes)
        expected = {
            PROBABILITIES: (count, classes + 1, grid, grid),
            CAM: (count, classes, grid, grid),
            SCORES: (count, classes),
        }
        for name, values in outputs.items():
            if values is None or values.shape != expected[name]:
                came = "none" if values is None else values.shape
                raise ServerError(
                    f"{self.address}: model {self.contract.slide_model!r}: expected {name} of shape {expected[name]}, got {came}"
                )
        return outputs

    def _read_contract(self) -> tuple[int, Contract]:
        try:
            self._wait_live()
            config = self._client.get_model_config(self.model, client_timeout=_CONNECT_S).config
        except InferenceServerException as error:
            if is_temporary(error):
                raise AwayError(
                    f"{self.address}: expected a Triton server, none answers ({reason_of(error)}): start one with "
                    "`histoserve serve`, or leave out --server; where it speaks TLS, give --tls-ca (and --tls-cert, --tls-key where it asks for yours)"
                ) from error
            if is_refused(error):
                raise ServerError(
                    f"{self.address}: the server, or a proxy before it, refuses this caller: {reason_of(error)}: "
                    "give the token with --headers FILE, the certificate with --tls-cert and --tls-key"
                ) from error
            raise ServerError(
                f"{self.address}: expected the model {self.model!r}, the server has none ready: {reason_of(error)}: "
                "check --model, or serve it with `histoserve serve --model`"
            ) from error
        try:
            return config.max_batch_size, Contract.from_parameters({key: value.string_value for key, value in config.parameters.items()})
        except ContractError as error:
            raise ServerError(f"{self.address}: model {self.model!r}: {error}") from error

    def _read_engine(self, contract: Contract) -> str:
        try:
            metadata = self._client.get_server_metadata(client_timeout=_CONNECT_S)
            slide = self._client.get_model_config(contract.slide_model, client_timeout=_CONNECT_S).config
            steps = [step.model_name for step in slide.ensemble_scheduling.step]
            configs = [self._client.get_model_config(name, client_timeout=_CONNECT_S).config for name in steps] or [slide]
        except InferenceServerException as error:
            raise ServerError(
                f"{self.address}: expected the slide model {contract.slide_model!r} with its steps, got {reason_of(error)}: "
                "serve the whole release with `histoserve serve --model`"
            ) from error
        return f"{metadata.name.split('-')[0]} {metadata.version}: {', '.join(config.backend or config.platform for config in configs)}"

    def _wait_live(self) -> None:
        """One question with a deadline: an address that swallows packets must not hang the command."""
        if not self._client.is_server_live(client_timeout=_CONNECT_S):
            raise ServerError(f"{self.address}: the server answers that it is not live: look at its log")


def is_temporary(error: InferenceServerException) -> bool:
    """A full queue, a lost connection, or a server that is stopping or lost a python stub: its supervisor starts it again.

    Triton 2.51 tells of the stub with INTERNAL, of its own unloading with NOT_FOUND, and of a restricted protocol with UNAVAILABLE.
    """
    status, message = str(error.status() or ""), error.message() or ""
    is_away = "UNAVAILABLE" in status or "DEADLINE_EXCEEDED" in status
    is_stopping = "has no available versions" in message  # a model that is not in the repository "is not found"
    has_lost_stub = "Stub process" in message and "is not healthy" in message
    return (is_away and "restricted" not in message) or is_stopping or has_lost_stub


def is_refused(error: InferenceServerException) -> bool:
    """The caller is to prove who it is, or may not do this."""
    status = str(error.status() or "")
    return "UNAUTHENTICATED" in status or "PERMISSION_DENIED" in status


def reason_of(error: InferenceServerException) -> str:
    return " ".join((error.message() or str(error)).split())
