"""A graph in int8: static quantization by ONNX Runtime's own tool, calibrated on real tiles. Knows no threshold and no speed.

Weights int8 per channel, activations uint8: what x86's VNNI multiplies. Quantization stands in the graph as the standard domain's QuantizeLinear and
DequantizeLinear, which TensorRT reads too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from serving.contract import TILE

from .errors import GraphError, TilesError
from .sensitive import SENSITIVE, find_ends
from .to_onnx import OPSET, strip_traces

MIN_CALIBRATION_TILES = 8
# Layers with weights, and what only passes their int8 on. Not Add: sums along a residual stream in int8 cost Swin-T 12 of 98 % label agreement.
QUANTIZED = ("Conv", "Gemm", "MatMul", "MaxPool", "Relu")


def to_int8(
    model: onnx.ModelProto,
    calibration_tiles: npt.NDArray[np.uint8],
    operators: Sequence[str] = QUANTIZED,
    keep: Sequence[str] = SENSITIVE,
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """The graph with int8 inside; inputs, outputs, both ends and the first and last layer with weights as they are.

    Args:
        model: the fp32 graph of a network.
        calibration_tiles: real tiles, uint8 (n, tile_px, tile_px, 3); the activations' ranges are their smallest and largest values.
        operators: ONNX operator types that are quantized.
        keep: ONNX operator types that are not, whatever `operators` says.
        reduce_range: weights of 7 bits, for processors without VNNI, whose sums of 8-bit products overflow.

    Raises:
        TilesError: too few tiles.
        GraphError: the tool cannot quantize the graph, or nothing of it.
    """
    if len(calibration_tiles) < MIN_CALIBRATION_TILES:
        raise TilesError(
            f"graph {model.graph.name!r}: expected at least {MIN_CALIBRATION_TILES} tiles to calibrate int8 on, got {len(calibration_tiles)}: "
            "give a folder of real tiles with --calibration"
        )
    with tempfile.TemporaryDirectory(prefix="histoserve-int8-") as folder:
        source_path, prepared_path, path = (Path(folder) / f"{name}.onnx" for name in ("source", "prepared", "int8"))
        onnx.save(model, source_path)  # a model in memory it would move into external data, and lose on the way
        # The exporter has written the shapes into the graph: no symbolic inference.
        quant_pre_process(source_path, prepared_path, skip_symbolic_shape=True)
        prepared = onnx.load(prepared_path)
        _check_operators(prepared)
        quantization.quantize_static(
            prepared,
            path,
            _Reader(calibration_tiles),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=[operator for operator in operators if operator not in keep],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=_excluded(prepared.graph),
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        quantized = onnx.load(path)
    return _cleaned(quantized)


class _Reader(quantization.CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime is not typed
    """One tile at a time: the batch is not part of what is calibrated."""

    def __init__(self, tiles: npt.NDArray[np.uint8]) -> None:
        self._tiles = iter(tiles)

    def get_next(self) -> dict[str, Any] | None:
        tile = next(self._tiles, None)
        return None if tile is None else {TILE: tile[None]}


def _excluded(graph: onnx.GraphProto) -> list[str]:
    ends = find_ends(graph)
    return [graph.node[index].name for index in sorted(ends.outer | ends.first | ends.last)]


def _cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the tool's notes and the domains it declares and does not use.

    Raises:
        GraphError: operators of other domains, or nothing quantized.
    """
    _check_operators(model)
    if not any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        raise GraphError(f"graph {model.graph.name!r}: expected layers that can be int8, got none between its first and its last")
    del model.opset_import[:]
    del model.graph.value_info[:]  # the tool names axes anew; any reader can infer them
    model.opset_import.append(onnx.helper.make_opsetid("", OPSET))
    strip_traces(model)
    return model


def _check_operators(model: onnx.ModelProto) -> None:
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")})
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if foreign or versions != [OPSET]:
        raise GraphError(
            f"graph {model.graph.name!r}: expected ONNX Runtime's quantization to keep the standard operators of opset {OPSET}, got {versions} and {foreign}"
        )
