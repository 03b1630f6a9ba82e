"""What calls of a served model give: labels and levels as they came over the wire, probabilities on demand. Knows no server."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.contract import Contract
from serving.probabilities import dequantize


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Tiles, or one image, segmented; `n` is missing from the shapes of an image.

    Attributes:
        labels: uint8 (n, H, W): 0 = background, 1…C = the contract's classes in order.
        levels: uint8 (n, C + 1, h, w): probabilities on the grid of cells of `contract.cell_px` pixels, 255 = certain, channel 0 = background.
    """

    contract: Contract
    labels: npt.NDArray[np.uint8]
    levels: npt.NDArray[np.uint8]

    @property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """The levels as float32, 0…1."""
        return dequantize(self.levels)


@dataclass(frozen=True, eq=False)
class Activation:
    """Class activation maps of tiles.

    Attributes:
        cam: float32 (n, C, h, w), 0…1, each map normalized to its own maximum.
        scores: float32 (n, C), 0…1: how sure the network is that the class is on the tile.
        labels: uint8 (n, H, W): 0 = background, 1…C.
    """

    contract: Contract
    cam: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]
