"""The largest value of every tensor: where it is, on which tile, and that nothing too large or undefined passes for fp16."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.errors import GraphError, ParityError
from export.ranges import TensorRange, measure_ranges, require_half_range
from serving.contract import TILE


def _model(*nodes: onnx.NodeProto, constants: dict[str, float]) -> onnx.ModelProto:
    """TILE (batch, 4, 4, 3) → OUT, with scalars by name."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(TILE, TensorProto.UINT8, ["batch", 4, 4, 3])],
        [helper.make_tensor_value_info("OUT", TensorProto.FLOAT, ["batch", 4, 4, 3])],
        [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _scaled() -> onnx.ModelProto:
    """TILE × −100, then ÷ 1000."""
    return _model(
        helper.make_node("Cast", [TILE], ["image"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["image", "large"], ["scaled"]),
        helper.make_node("Div", ["scaled", "small"], ["OUT"]),
        constants={"large": -100.0, "small": 1000.0},
    )


def _tiles(*values: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Zero but for one pixel each."""
    tiles = np.zeros((len(values), 4, 4, 3), np.uint8)
    tiles[:, 1, 2, 0] = values
    return tiles


def test_ranges_say_value_operator_and_tile() -> None:
    assert measure_ranges(_scaled(), _tiles(3, 200, 7)) == (
        TensorRange("image", "Cast", 200.0, 1),
        TensorRange("scaled", "Mul", 20_000.0, 1),
        TensorRange("OUT", "Div", 20.0, 1),
    )


def test_limit_is_16000_and_excludes_itself() -> None:
    ranges = measure_ranges(_scaled(), _tiles(159, 160))
    with pytest.raises(ParityError, match=r"'tiny'.*'scaled' \(Mul\) reaches 16000 on tile 1"):
        require_half_range("tiny", ranges, {"scaled"})
    require_half_range("tiny", measure_ranges(_scaled(), _tiles(159)), {"scaled"})


def test_tensors_that_stay_fp32_may_be_large() -> None:
    require_half_range("tiny", measure_ranges(_scaled(), _tiles(255)), {"image", "OUT"})


def test_nan_that_a_maximum_would_drop_is_refused() -> None:
    model = _model(
        helper.make_node("Cast", [TILE], ["image"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["middle", "image"], ["centered"]),
        helper.make_node("Sqrt", ["centered"], ["OUT"]),
        constants={"middle": 128.0},
    )
    ranges = measure_ranges(model, _tiles(5, 200))  # one pixel of the second tile is the root of −72
    assert math.isnan(ranges[-1].abs_max)
    assert ranges[-1].tile == 1
    with pytest.raises(ParityError, match=r"'OUT' \(Sqrt\) reaches nan on tile 1"):
        require_half_range("tiny", ranges, {"OUT"})


def test_infinity_is_refused() -> None:
    model = _model(
        helper.make_node("Cast", [TILE], ["image"], to=TensorProto.FLOAT),
        helper.make_node("Reciprocal", ["image"], ["OUT"]),
        constants={},
    )
    with pytest.raises(ParityError, match=r"'OUT' \(Reciprocal\) reaches inf on tile 0"):
        require_half_range("tiny", measure_ranges(model, _tiles(1)), {"OUT"})


def test_ranges_on_no_tile_are_refused() -> None:
    with pytest.raises(GraphError, match=r"tiles to measure their ranges on, got 3 tensors, 0 tiles"):
        measure_ranges(_scaled(), _tiles())
