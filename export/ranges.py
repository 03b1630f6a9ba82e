"""How large every tensor of a graph becomes on real tiles, and whether fp16 can hold it. Knows no conversion.

Engines on a CPU do not show an overflow: they have no fp16 kernels for most operators and compute those in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from serving.contract import TILE

from .errors import GraphError, ParityError
from .runtime import Graph

HALF_LIMIT = 16_000.0  # a quarter of fp16's largest number: other tiles than the measured ones have room
_LISTED = 5  # of the tensors out of range


@dataclass(frozen=True)
class TensorRange:
    """The largest value of a tensor.

    Attributes:
        operator: ONNX operator type that makes it.
        abs_max: over all tiles; NaN or infinite where the tensor is.
        tile: index of the tile that gives it.
    """

    tensor: str
    operator: str
    abs_max: float
    tile: int

    @property
    def fits_half(self) -> bool:
        """False for NaN too."""
        return self.abs_max < HALF_LIMIT


def measure_ranges(model: onnx.ModelProto, tiles: npt.NDArray[np.uint8]) -> tuple[TensorRange, ...]:
    """The range of every fp32 tensor that a node makes, in the order of the nodes.

    The maxima are taken inside the graph, so that no tensor has to be kept.

    Args:
        model: the fp32 graph, TILE its input.
        tiles: uint8 (n, tile_px, tile_px, 3), n ≥ 1.

    Raises:
        GraphError: nothing to measure, or on nothing.
    """
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    names = [name for name in float_tensors(model) if name in makers]
    if not names or not len(tiles):
        raise GraphError(
            f"graph {model.graph.name!r}: expected fp32 tensors and tiles to measure their ranges on, got {len(names)} tensors, {len(tiles)} tiles"
        )
    graph = Graph(_measuring(model, names))
    per_tile = np.stack([_maxima(graph.run({TILE: tile[None]}), len(names)) for tile in tiles])  # (n, tensors)
    worst = np.where(np.isnan(per_tile), np.inf, per_tile).argmax(axis=0)
    return tuple(
        TensorRange(name, makers[name], float(per_tile[tile, index]), tile)
        for index, (name, tile) in enumerate(zip(names, worst.tolist(), strict=True))
    )


def require_half_range(graph: str, ranges: Sequence[TensorRange], tensors: Collection[str]) -> None:
    """Nothing, where fp16 holds all the tensors.

    Args:
        tensors: names of those that become fp16.

    Raises:
        ParityError: some do not fit; the message names the largest.
    """
    outside = [entry for entry in ranges if entry.tensor in tensors and not entry.fits_half]
    if not outside:
        return
    outside.sort(key=lambda entry: math.inf if math.isnan(entry.abs_max) else entry.abs_max, reverse=True)
    listed = "; ".join(
        f"{entry.tensor!r} ({entry.operator}) reaches {entry.abs_max:.6g} on tile {entry.tile}" for entry in outside[:_LISTED]
    )
    raise ParityError(
        f"graph {graph!r}: expected every fp16 tensor below {HALF_LIMIT:g} in fp32, got {len(outside)} that are not: {listed}. "
        "Export it in fp32, or keep these operators in fp32"
    )


def float_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of all fp32 tensors that nodes make, in their order.

    Raises:
        GraphError: ONNX cannot tell the types.
    """
    try:
        graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise GraphError(f"graph {model.graph.name!r}: ONNX cannot infer the types of its tensors: {error}") from error
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return [name for node in graph.node for name in node.output if types.get(name) == TensorProto.FLOAT]


def _measuring(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy whose outputs are, per tensor, its largest and its summed absolute value."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for index, name in enumerate(names):
        absolute, largest, total = f"RANGE_ABS_{index}", f"RANGE_MAX_{index}", f"RANGE_SUM_{index}"
        copy.graph.node.extend(
            (
                helper.make_node("Abs", [name], [absolute]),
                helper.make_node("ReduceMax", [absolute], [largest], keepdims=0),
                helper.make_node("ReduceSum", [absolute], [total], keepdims=0),
            )
        )
        copy.graph.output.extend(helper.make_tensor_value_info(output, TensorProto.FLOAT, []) for output in (largest, total))
    return copy


def _maxima(answer: dict[str, npt.NDArray[np.float32]], count: int) -> npt.NDArray[np.float64]:
    """(tensors,): the maxima. ONNX Runtime's ReduceMax drops a NaN, a sum does not."""
    largest, total = (np.array([answer[f"RANGE_{what}_{index}"] for index in range(count)], np.float64) for what in ("MAX", "SUM"))
    return np.where(np.isnan(total), total, largest)
