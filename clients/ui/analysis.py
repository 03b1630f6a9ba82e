"""An image through a model: mask, areas, heat maps and how long each took. Knows no HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.contract import Contract

from ..tile_client import TileClient
from .heat import Heat, heat_of
from .models import Offer
from .sources import Picture

_MM2_PER_UM2 = 1e-6


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is shown.

    Attributes:
        labels: uint8 (H, W), 0 = background, 1…C; None where the model has no segmenter.
        heat: None where the model gives no CAMs.
        segment_s: from the file to its labels.
        cam_s: from the pixels to their heat maps.
    """

    contract: Contract
    picture: Picture
    labels: npt.NDArray[np.uint8] | None
    heat: Heat | None
    segment_s: float | None
    cam_s: float | None

    @property
    def shares(self) -> list[float] | None:
        """Of the image, 0…1, background first."""
        if self.labels is None:
            return None
        counts = np.bincount(self.labels.ravel(), minlength=len(self.contract.task.classes) + 1)
        return [float(count) / self.labels.size for count in counts]

    @property
    def area_mm2(self) -> float | None:
        """Of the whole image; None where its scale is unknown."""
        if self.picture.mpp is None:
            return None
        height, width = map(int, self.picture.rgb.shape[:2])
        return width * self.picture.mpp[0] * height * self.picture.mpp[1] * _MM2_PER_UM2


def analyze(offer: Offer, client: TileClient, picture: Picture) -> Analysis:
    """Ask the model for all it has.

    Raises:
        CallError: it fails.
    """
    labels: npt.NDArray[np.uint8] | None = None
    heat: Heat | None = None
    segment_s = cam_s = None
    if offer.segment is not None:
        started = time.perf_counter()
        labels = _labels(offer.segment, client, picture)
        segment_s = time.perf_counter() - started
    if offer.cam is not None:
        started = time.perf_counter()
        heat = heat_of(picture.rgb, client)
        cam_s = time.perf_counter() - started
    return Analysis(offer.contract, picture, labels, heat, segment_s, cam_s)


def _labels(contract: Contract, client: TileClient, picture: Picture) -> npt.NDArray[np.uint8]:
    """A tile goes as a tile, with the same answer: not every model has an entry for image files."""
    side = contract.task.tile_px
    if picture.rgb.shape[:2] == (side, side):
        labels: npt.NDArray[np.uint8] = client.segment(picture.rgb[None]).labels[0]
        return labels
    return client.segment_image(picture.data).labels
