"""What TensorRT's ONNX parser takes: operators, element types and restrictions, as data. Knows no graph as a whole.

Source: `docs/operators.md` of onnx-tensorrt for TensorRT 10.15 (opset 9…24), read 2026-10; of it, what ONNX has at opset 18. 10.13…10.15 and 11.0
added only operators of opset 23 and later (Attention, RMSNormalization, RotaryEmbedding, TensorScatter, Swish), so the table holds for 10.12…11.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto

Constants = Mapping[str, npt.NDArray[np.generic]]

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
_ANY = _NUMBERS | {TensorProto.BOOL}
_BOOL = frozenset({TensorProto.BOOL})
_BY_TYPES: tuple[tuple[frozenset[int], str], ...] = (
    (
        FLOATS,
        """Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose Cos Cosh CumSum Einsum Elu Erf Exp
        Floor Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax InstanceNormalization IsInf
        LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool LRN MatMul MaxPool MeanVarianceNormalization PRelu QuantizeLinear
        Reciprocal Resize Round Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu""",
    ),
    (frozenset({TensorProto.FLOAT, TensorProto.FLOAT16}), "Mish RoiAlign"),
    (
        _NUMBERS,
        """Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mul Neg Pad Pow ReduceL1
        ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu ScatterElements
        ScatterND Shrink Sign SpaceToDepth Sub Sum TopK""",
    ),
    (
        _ANY,
        """Concat Constant Expand Flatten Gather GatherElements GatherND Identity OneHot Reshape ReverseSequence Slice Split Squeeze Tile
        Transpose Trilu Unsqueeze Where""",
    ),
    (_ANY | {TensorProto.UINT8}, "Cast CastLike"),
    (_BOOL, "And Not Or Xor"),
    (frozenset({TensorProto.INT8}), "DequantizeLinear"),
)
SUPPORTED: Mapping[str, frozenset[int]] = {name: types for types, names in _BY_TYPES for name in names.split()}

# Computed from shapes or values while the engine runs: it splits the graph, or fixes nothing until then (serving.md §4.2).
SHAPE_RESIDUE = frozenset({"Shape", "Size", "ConstantOfShape", "Range", "Mod", "NonZero", "Loop", "If", "Scan", "Compress", "Unique"})
# The parser takes it, and the engine answers wrongly without an error (NVIDIA/TensorRT#4813, #4646).
WRONG_IN_TENSORRT = frozenset({"GridSample"})

_TYPED_BY_INPUT = {"Where": 1, "OneHot": 2}
_MAX_TOP = 3840
_RESIZE_VALUES = {
    "mode": {"nearest", "linear"},
    "coordinate_transformation_mode": {"half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners"},
    "nearest_mode": {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"},
    "keep_aspect_ratio_policy": {"stretch"},
}


def typed_input(node: NodeProto) -> str | None:
    """The input whose element type `SUPPORTED` speaks of; None where a node reads nothing."""
    index = _TYPED_BY_INPUT.get(node.op_type, 0)
    return node.input[index] if index < len(node.input) else None


def restriction(node: NodeProto, constants: Constants) -> str | None:
    """What of the operator the node uses and TensorRT does not take, in words; None where all is well.

    Args:
        constants: the graph's constant tensors by name.
    """
    check = _RESTRICTIONS.get(node.op_type)
    return None if check is None else check(node, constants)


def attributes(node: NodeProto) -> dict[str, object]:
    """Attributes by name; text as str."""
    values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _constant_input(index: int, name: str) -> Callable[[NodeProto, Constants], str | None]:
    def check(node: NodeProto, constants: Constants) -> str | None:
        has_input = len(node.input) > index and node.input[index] != ""
        return f"{name} that are not constant" if has_input and node.input[index] not in constants else None

    return check


def _first_output_only(node: NodeProto, constants: Constants) -> str | None:
    del constants
    return f"the outputs {list(node.output[1:])} beside the first" if any(node.output[1:]) else None


def _no_dilation(node: NodeProto, constants: Constants) -> str | None:
    dilations = attributes(node).get("dilations", [])
    if isinstance(dilations, list) and any(dilation != 1 for dilation in dilations):
        return f"dilations {dilations}"
    return _first_output_only(node, constants)


def _resize(node: NodeProto, constants: Constants) -> str | None:
    del constants
    values = attributes(node)
    if values.get("antialias", 0):
        return "antialiasing"
    wrong = {name: values[name] for name, allowed in _RESIZE_VALUES.items() if name in values and values[name] not in allowed}
    return f"{wrong}" if wrong else None


def _symmetric(node: NodeProto, constants: Constants) -> str | None:
    if len(node.input) < 3 or not node.input[2]:
        # ONNX's own default is an unsigned zero point of 0.
        return "no zero point, which means unsigned integers" if node.op_type == "QuantizeLinear" else None
    zero_point = constants.get(node.input[2])
    if zero_point is None:
        return "a zero point that is not constant"
    if zero_point.dtype != np.int8 or zero_point.any():
        return f"a zero point of {zero_point.dtype} with values other than int8 0"
    return None


def _no_reduction(node: NodeProto, constants: Constants) -> str | None:
    del constants
    reduction = attributes(node).get("reduction", "none")
    return None if reduction == "none" else f"reduction {reduction}"


def _small_top(node: NodeProto, constants: Constants) -> str | None:
    count = constants.get(node.input[1])
    if count is None or int(count.item()) >= _MAX_TOP:
        return f"K of {_MAX_TOP} or more, or one that is not constant"
    return None if attributes(node).get("sorted", 1) == 1 else "sorted = 0"


_RESTRICTIONS: Mapping[str, Callable[[NodeProto, Constants], str | None]] = {
    **{name: _constant_input(1, "axes") for name in SUPPORTED if name.startswith("Reduce")},
    "Unsqueeze": _constant_input(1, "axes"),
    "Squeeze": _constant_input(1, "axes"),
    "CumSum": _constant_input(1, "axes"),
    "OneHot": _constant_input(1, "depths"),
    "LayerNormalization": _first_output_only,
    "BatchNormalization": _first_output_only,
    "MaxPool": _no_dilation,
    "AveragePool": _no_dilation,
    "LpPool": _no_dilation,
    "Resize": _resize,
    "QuantizeLinear": _symmetric,
    "DequantizeLinear": _symmetric,
    "ScatterND": _no_reduction,
    "TopK": _small_top,
}
