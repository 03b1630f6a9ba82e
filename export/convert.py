"""A checked fp32 graph in the precision asked for, beside what that costs and gives. Knows no repository and no checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from .errors import TilesError
from .half import to_half
from .int8 import to_int8
from .parity import Precision
from .precision import PrecisionReport, accept_int8, measure_precision

Tiles = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PrecisionOptions:
    """What to convert to, and what it may cost.

    Attributes:
        calibration: of int8, uint8 (n, tile_px, tile_px, 3); other tiles than parity is measured on.
        max_miou_loss: of int8, points of mean IoU.
        rounds: of the speed measurement; 0 leaves it out, and int8 is then refused.
        scored: tiles and their truth, (n, tile_px, tile_px, 3) and (n, tile_px, tile_px), that the loss is measured on; None: the tiles of the gate,
            against the labels of fp32.
    """

    precision: Precision = "fp32"
    calibration: Tiles | None = None
    max_miou_loss: float = 1.0
    rounds: int = 9
    scored: tuple[Tiles, Labels] | None = None


FP32 = PrecisionOptions()


def convert(model: onnx.ModelProto, tiles: Tiles, options: PrecisionOptions) -> tuple[onnx.ModelProto, PrecisionReport | None]:
    """The graph in that precision, and its report; fp32 stays as it is and has none.

    Raises:
        TilesError: no tiles to calibrate int8 on.
        GraphError: the graph cannot be converted.
        ParityError: fp16 cannot hold its values, it does not agree with fp32, or int8 is not worth shipping; with the figures.
    """
    if options.precision == "fp32":
        return model, None
    scored, truths = options.scored or (tiles, None)
    if options.precision == "fp16":
        half = to_half(model, tiles)
        return half, measure_precision("fp16", model, half, scored, truths, options.rounds).require()
    if options.calibration is None:
        raise TilesError("precision int8: expected tiles to calibrate on, got none: give a folder of real tiles with --calibration")
    int8 = to_int8(model, options.calibration)
    report = measure_precision("int8", model, int8, scored, truths, options.rounds).require()
    accept_int8(report, options.max_miou_loss)
    return int8, report
