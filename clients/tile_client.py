"""The callers' client: tiles or image files to a served model and back, from any thread. Knows the entries' names; the rest is beside it.

    with TileClient("127.0.0.1:8001", "demo") as client:
        labels = client.segment(tiles).labels

Errors: the tree in `call_errors.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from serving.contract import CAM, LABELS, PROBABILITIES, SCORES, Contract, Kind

from .call_errors import MismatchError
from .call_results import Activation, Segmentation
from .endpoint import Arrays, Entry, Tls
from .fleet import Fleet
from .picture import PictureLimits, decode_picture, is_for_server, segment_picture
from .tile_requests import OUTPUTS, Requests, SlideModel, await_all

IN_FLIGHT = 4
PATIENCE_S = 60.0  # a server that is restarted is back within it

Tiles = npt.NDArray[np.uint8]


class TileClient:
    """Calls the entries of one model. Thread-safe; a context manager. Nothing is sent before the first call.

    Requests carry no gRPC deadline and are never canceled, since Triton before 2.53 can crash on either: a call whose time is over
    stops waiting, and what was sent is left to finish.

    Args:
        servers: one "host:port" or several, which take turns; one that is away is passed over and tried again later.
        model: the name in front of `_segment`, `_cam` and `_segment_image`, e.g. "default".
        in_flight: requests on the way at a time, of all threads together; each is a batch of the server's limit or less.
        patience_s: how long full queues, lost connections and restarts are tried again before the call fails.
        tls: None = no encryption.
        headers: sent with every request, e.g. {"authorization": "Bearer …"}.
        limits: how large an image may be.

    Raises:
        ValueError: no server, no request in flight, a negative patience.
    """

    def __init__(
        self,
        servers: str | Sequence[str],
        model: str,
        *,
        in_flight: int = IN_FLIGHT,
        patience_s: float = PATIENCE_S,
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        limits: PictureLimits | None = None,
    ) -> None:
        if patience_s < 0:
            raise ValueError(f"patience_s: expected 0 or more, got {patience_s:g}")
        self.model = model
        self.limits = limits or PictureLimits()
        addresses = [servers] if isinstance(servers, str) else list(dict.fromkeys(servers))
        self.requests = Requests(Fleet(addresses, tls, headers or {}, patience_s), in_flight)

    def close(self) -> None:
        """Calls that wait end with `ClosedError` or their answer; what is on the way is waited for, half a minute at most."""
        self.requests.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def contract(self, kind: Kind = "segment") -> Contract:
        """Classes, colors, scale and tile of an entry, as the server tells them.

        Raises:
            CallError: no server has the entry, or it is none of ours.
        """
        return self.entry(kind).contract

    def segment(self, tiles: Tiles, *, deadline_s: float | None = None) -> Segmentation:
        """Labels and probabilities of tiles.

        Args:
            tiles: uint8 RGB (n, tile_px, tile_px, 3), any n, at the contract's micrometers per pixel.
            deadline_s: how long to wait; None = as long as it takes.

        Raises:
            CallError: see its tree.
        """
        return segmentation(*self._ask("segment", tiles, deadline_s))

    def cam(self, tiles: Tiles, *, deadline_s: float | None = None) -> Activation:
        """Class activation maps of tiles; arguments and errors as of `segment`."""
        return activation(*self._ask("cam", tiles, deadline_s))

    def segment_image(self, data: bytes, *, deadline_s: float | None = None) -> Segmentation:
        """Labels and probabilities of one JPEG or PNG file at the model's scale; of a tile's size also WebP.

        A file of exactly a tile's size goes to the server as it is. Another is decoded here, cut into overlapping tiles and stitched as slides are.

        Raises:
            ImageFileError: damaged, too large, transparent, or no image.
            CallError: see its tree.
        """
        return self.segment_image_until(data, end_of(deadline_s), threading.Event())

    def segment_image_until(self, data: bytes, deadline: float | None, stop: threading.Event) -> Segmentation:
        """As `segment_image`, until a time of `time.monotonic`, or until `stop` is set."""
        if is_for_server(data, self.entry("segment", until=deadline).contract.task.tile_px):
            entry = self.entry("segment", "_image", until=deadline)
            (outputs,) = await_all([self.requests.submit(entry, data, OUTPUTS["segment"], stop)], deadline, stop)
            return segmentation(entry.contract, {name: values[0] for name, values in outputs.items()})
        rgb = decode_picture(data, self.limits)
        contract = self.entry("segment", fresh=True, until=deadline).contract  # the release of now: an old one is unloaded some day
        slide_model = self.requests.fleet.entry(contract.slide_model, until=deadline)
        return segment_picture(rgb, SlideModel(self.requests, slide_model, deadline, stop), self.requests.in_flight)

    def entry(self, kind: Kind, suffix: str = "", fresh: bool = False, until: float | None = None) -> Entry:
        """An entry of the model, its kind proved."""
        entry = self.requests.fleet.entry(f"{self.model}_{kind}{suffix}", fresh, until)
        if entry.contract.kind != kind or (entry.contract.takes == "image") != bool(suffix):
            raise MismatchError(
                f"model {entry.name!r}: expected an entry of kind {kind!r}, got {entry.contract.kind!r} that takes {entry.contract.takes}s"
            )
        return entry

    def submit(self, entry: Entry, tiles: Tiles, stop: threading.Event) -> list[Future[Arrays]]:
        """What `AsyncTileClient` waits for in its own way."""
        return self.requests.submit_tiles(entry, tiles, stop)

    def _ask(self, kind: Kind, tiles: Tiles, deadline_s: float | None) -> tuple[Contract, Arrays]:
        deadline = end_of(deadline_s)
        entry = self.entry(kind, until=deadline)
        return entry.contract, self.requests.ask_tiles(entry, tiles, deadline)


def segmentation(contract: Contract, outputs: Arrays) -> Segmentation:
    """The outputs by their names."""
    return Segmentation(contract, outputs[LABELS], outputs[PROBABILITIES])


def activation(contract: Contract, outputs: Arrays) -> Activation:
    """The outputs by their names."""
    return Activation(contract, outputs[CAM], outputs[SCORES], outputs[LABELS])


def end_of(deadline_s: float | None) -> float | None:
    """From now, as a time of `time.monotonic`."""
    return None if deadline_s is None else time.monotonic() + deadline_s
