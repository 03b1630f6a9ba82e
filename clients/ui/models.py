"""The served models that the page offers, one client each. Knows no image and no HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serving.contract import Contract, Kind

from ..call_errors import MissingModelError
from ..endpoint import Tls
from ..tile_client import TileClient
from .errors import AskedError

_ENDINGS = ("_segment_image", "_segment", "_cam")
_PATIENCE_S = 20.0  # somebody is looking at the page


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
                f"model {self.name!r}: expected the entry {self.name}_segment or {self.name}_cam, the server has neither: serve one"
            )
        return found


class Models:
    """Made without a word to the server. Thread-safe.

    Args:
        server: host:port.
        names: of models or of their entries; each model is offered once.
    """

    def __init__(self, server: str, names: Sequence[str], tls: Tls | None, patience_s: float = _PATIENCE_S) -> None:
        self.server = server
        self._clients = {name: TileClient(server, name, tls=tls, patience_s=patience_s) for name in dict.fromkeys(map(base_name, names))}

    def close(self) -> None:
        """Ends calls that wait."""
        for client in self._clients.values():
            client.close()

    def client(self, name: str) -> TileClient:
        """
        Raises:
            AskedError: none of that name is offered.
        """
        try:
            return self._clients[name]
        except KeyError:
            raise AskedError(f"model {name!r}: expected one of {', '.join(self._clients)}: reload the page") from None

    def offer(self, name: str) -> Offer:
        """What the server says of the model now or said before.

        Raises:
            CallError: it does not answer, or its entries are none of ours.
            AskedError: none of that name is offered.
        """
        client = self.client(name)
        return Offer(name, _contract(client, "segment"), _contract(client, "cam"))

    def offers(self) -> list[Offer]:
        """All models of which the server has an entry.

        Raises:
            CallError: as of `offer`.
            AskedError: the server has an entry of none.
        """
        found = [self.offer(name) for name in self._clients]
        able = [offer for offer in found if offer.segment or offer.cam]
        if not able:
            raise AskedError(
                f"{self.server}: expected an entry of {', '.join(self._clients)}, the server has none: start the page with another --model"
            )
        return able


def base_name(entry: str) -> str:
    """The model of an entry: `NAME_segment` → NAME."""
    return next((entry.removesuffix(ending) for ending in _ENDINGS if entry.endswith(ending)), entry)


def _contract(client: TileClient, kind: Kind) -> Contract | None:
    try:
        return client.contract(kind)
    except MissingModelError:
        return None
