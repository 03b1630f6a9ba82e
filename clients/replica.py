"""One server among several that serve the same: whether it is there, how busy it is, whether it came back as what it was. Knows no order of batches."""

from __future__ import annotations

import logging
import operator
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from .errors import ServerError
from .served_model import Outputs, Promise, ServedModel
from .tls_files import TlsFiles

_REST_S = 1.0  # how long a server that is away is left alone before it is asked again
_log = logging.getLogger(__name__)


class Replica:
    """Its methods may be called from any thread, `look_back` from one at a time.

    Args:
        address: of the server's gRPC, "host:port".
        model: the callers' entry.
        asking: runs the questions to a server that is away.
        headers: sent with every request.

    Attributes:
        is_ready: batches may be sent to it.
        on_the_way: batches that it has not answered yet.
        why: it is not ready, for a message.
        is_strange: it came back as something else, and gets no batch any more.
    """

    def __init__(
        self, address: str, model: str, tls: TlsFiles, asking: ThreadPoolExecutor, headers: Mapping[str, str] | None = None
    ) -> None:
        self.address = address
        self.is_ready = False
        self.on_the_way = 0
        self.why = "was not asked yet"
        self._model, self._tls, self._asking, self._headers = model, tls, asking, headers
        self._lock = threading.Lock()
        self._served: ServedModel | None = None
        self._pattern: Promise | None = None
        self._question: Future[None] | None = None
        self._rests_until_s = 0.0
        self.is_strange = False

    @property
    def served(self) -> ServedModel:
        """The connection to it; there is one once it was ready."""
        assert self._served is not None
        return self._served

    def open(self) -> Promise:
        """Connect to it; what it serves.

        Raises:
            AwayError: nothing answers there.
            ServerError: the model is not served or not ours.
        """
        promise = self._connect().promise
        self.is_ready = True
        return promise

    def follow(self, pattern: Promise) -> None:
        """From now on it must serve what that server does, which is checked now and whenever it comes back.

        Raises:
            ServerError: it serves something else.
        """
        self._pattern = pattern
        if self._served is not None:
            self._require_fit(self._served.promise)

    def send(self, tiles: npt.NDArray[np.uint8]) -> Future[Outputs]:
        """One request; the future fails with tritonclient's InferenceServerException."""
        with self._lock:
            self.on_the_way += 1
        answer = self.served.send(tiles)
        answer.add_done_callback(lambda done: self._count_down())
        return answer

    def leave(self, why: str) -> bool:
        """It does not answer; whether it was ready until now."""
        with self._lock:
            was_ready, self.is_ready, self.why = self.is_ready, False, why
            self._rests_until_s = time.monotonic() + _REST_S
        return was_ready

    def look_back(self) -> None:
        """Have it asked in the background whether it is back; whoever calls this again learns it from `is_ready`."""
        if self.is_ready or self.is_strange or time.monotonic() < self._rests_until_s:
            return
        if self._question is not None and not self._question.done():
            return
        if self._question is not None:
            self._question.result()  # a bug must not look like a server that is away
        self._question = self._asking.submit(self._ask)

    def close(self) -> None:
        """Also ends what is on the way."""
        if self._served is not None:
            self._served.close()

    def _ask(self) -> None:
        try:
            promise = self._connect().promise if self._served is None else self._served.read()
        except ServerError as error:
            self.leave(str(error))
            return
        try:
            self._require_fit(promise)
        except ServerError as error:
            self.is_strange, self.why = True, str(error)
            _log.error("%s; %s gets no batch of this run any more", error, self.address)
            return
        self.is_ready = True
        _log.warning("%s: the server is back", self.address)

    def _connect(self) -> ServedModel:
        self._served = ServedModel(self.address, self._model, self._tls, headers=self._headers)
        return self._served

    def _require_fit(self, promise: Promise) -> None:
        assert self._pattern is not None
        for what in ("contract.release", "engine", "contract", "max_batch"):
            expected, got = (operator.attrgetter(what)(side) for side in (self._pattern, promise))
            if expected != got:
                told = "" if what == "contract" else f": {expected} and {got}"
                whose = self.address if self.address == self._pattern.address else f"{self._pattern.address} and {self.address}"
                raise ServerError(
                    f"{whose}: expected the same model {self._model!r} of all servers all the time, {what} "
                    f"differs{told}: publish one release to all of them, or leave one out of --server"
                )

    def _count_down(self) -> None:
        with self._lock:
            self.on_the_way -= 1
