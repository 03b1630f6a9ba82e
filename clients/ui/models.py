"""The served models that the page offers, one client each. Knows no image and no HTTP."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serving.contract import Contract, Kind

from ..call_errors import MismatchError, MissingModelError
from ..endpoint import Tls
from ..server_list import parse_servers
from ..tile_client import TileClient
from .errors import AskedError

_ENDINGS = ("_segment_image", "_segment", "_cam")
_PATIENCE_S = 20.0  # somebody is looking at the page
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """What a model can do on the page.

    Attributes:
        segment: of `NAME_segment`; None where the server has no such entry.
        cam: of `NAME_cam`; None where the server has no such entry.
    """

    name: str
    segment: Contract | None
    cam: Contract | None

    @property
    def contract(self) -> Contract:
        """Of either: both tell the same task.

        Raises:
            AskedError: the server has neither.
        """
        found = self.segment or self.cam
        if found is None:
            raise AskedError(
                f"model {self.name!r}: expected the entry {self.name}_segment or {self.name}_cam, the server has neither: choose another model"
            )
        return found


class Models:
    """Made without a word to the server. Thread-safe.

    Args:
        server: host:port, or several of the same models with commas between, which take turns.
        names: gives those of models or of their entries, asked at every question; each model is offered once.
        headers: sent with every request.
    """

    def __init__(
        self,
        server: str,
        names: Callable[[], Sequence[str]],
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self.server = server
        self._addresses = parse_servers(server)
        self._names = names
        self._tls, self._headers, self._patience_s = tls, headers, patience_s
        self._lock = threading.Lock()
        self._clients: dict[str, TileClient] = {}
        self._is_closed = False

    def close(self) -> None:
        """Ends calls that wait."""
        with self._lock:
            self._is_closed = True
            clients = [*self._clients.values()]
        for client in clients:
            client.close()

    def client(self, name: str) -> TileClient:
        """
        Raises:
            AskedError: none of that name is offered.
        """
        names = self._models()
        if name not in names:
            raise AskedError(f"model {name!r}: expected one of {', '.join(names)}: choose another model")
        with self._lock:
            if self._is_closed:
                raise AskedError(f"model {name!r}: the page is ending: start it again")
            if name not in self._clients:
                self._clients[name] = TileClient(self._addresses, name, tls=self._tls, headers=self._headers, patience_s=self._patience_s)
            return self._clients[name]

    def offer(self, name: str) -> Offer:
        """What the server says of the model now.

        Raises:
            CallError: it does not answer, or its entries are none of ours.
            AskedError: none of that name is offered.
        """
        client = self.client(name)
        return Offer(name, _contract(client, "segment"), _contract(client, "cam"))

    def offers(self) -> list[Offer]:
        """All models of which the server has an entry; one that is not ours is left out where there are others, and logged.

        Raises:
            CallError: as of `offer`.
            AskedError: the server has an entry of none.
        """
        names = self._models()
        able: list[Offer] = []
        strange: list[MismatchError] = []
        for name in names:
            try:
                offer = self.offer(name)
            except MismatchError as error:
                strange.append(error)
                continue
            if offer.segment or offer.cam:
                able.append(offer)
        for fault in strange:
            if not able:
                raise fault
            _log.warning("left out: %s", fault)
        if not able:
            raise AskedError(
                f"{self.server}: expected an entry of {', '.join(names)}, the server has none: publish one, or start the page with another --model"
            )
        return able

    def _models(self) -> list[str]:
        return list(dict.fromkeys(map(base_name, self._names())))


def base_name(entry: str) -> str:
    """The model of an entry: `NAME_segment` → NAME."""
    return next((entry.removesuffix(ending) for ending in _ENDINGS if entry.endswith(ending)), entry)


def _contract(client: TileClient, kind: Kind) -> Contract | None:
    """Asked anew: a model may have gone, or have another release."""
    try:
        return client.entry(kind, fresh=True).contract
    except MissingModelError:
        return None
