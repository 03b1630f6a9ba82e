"""The rules that ONNX Runtime does not have: every one is broken once, and the graphs we export keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from export.errors import GraphError
from export.fold import fold
from export.graphs import KindGraphs
from export.signature import network_signature
from export.tensorrt_operators import SHAPE_RESIDUE, SUPPORTED, WRONG_IN_TENSORRT
from export.tensorrt_rules import check_tensorrt, violations
from export.to_onnx import OPSET, to_onnx
from export.wrapper import CamNet, SegmentNet
from serving.tasks import get_task
from training.classifier import Classifier, ClassifierConfig
from training.segmenter import Segmenter, SegmenterConfig

FLOAT, HALF, UINT8, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8, TensorProto.INT64, TensorProto.DOUBLE
Constants = dict[str, npt.NDArray[Any]]

FIRST = helper.make_node("Cast", ["TILE"], ["floats"], "first", to=FLOAT)
MIDDLE = helper.make_node("Mul", ["floats", "two"], ["scaled"], "middle")
LAST = helper.make_node("Cast", ["scaled"], ["LABELS"], "last", to=UINT8)
TWO: Constants = {"two": np.array(2, np.float32)}


def value(name: str, kind: int, axes: Sequence[int | str] = ("batch", 8, 8, 3)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, axes)


def model(
    nodes: Sequence[NodeProto],
    constants: Constants = TWO,
    inputs: Sequence[onnx.ValueInfoProto] = (value("TILE", UINT8),),
    outputs: Sequence[onnx.ValueInfoProto] = (value("LABELS", UINT8),),
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), "made", list(inputs), list(outputs), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def between(*nodes: NodeProto, **constants: npt.NDArray[Any]) -> onnx.ModelProto:
    """floats → the nodes → scaled, with the casts around them that are right."""
    return model([FIRST, *nodes, LAST], {**TWO, **constants})


def node(operator: str, inputs: Sequence[str], **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, ["scaled"], "middle", **attributes)


def test_a_graph_that_keeps_the_rules() -> None:
    good = model([FIRST, MIDDLE, LAST])
    onnx.checker.check_model(good, full_check=True)
    assert violations(good) == ()


def test_what_the_small_networks_export_to(graphs: tuple[KindGraphs, ...]) -> None:
    for kind in graphs:
        for exported in (kind.net, kind.labels):
            assert exported is not None
            folded = onnx.ModelProto.FromString(exported.SerializeToString())
            fold(folded)
            check_tensorrt(folded)


def body(*names: str) -> onnx.GraphProto:
    """A subgraph that hands its inputs on."""
    kinds = {"step": TensorProto.INT64, "go": TensorProto.BOOL}
    read = [helper.make_tensor_value_info(name, kinds.get(name, FLOAT), None) for name in names]
    passed = [name for name in names if name != "step"]
    written = [helper.make_tensor_value_info(f"{name}_on", kinds.get(name, FLOAT), None) for name in passed]
    return helper.make_graph([helper.make_node("Identity", [name], [f"{name}_on"]) for name in passed], "body", read, written)


BRANCH = helper.make_graph([helper.make_node("Identity", ["floats"], ["taken"])], "branch", [], [value("taken", FLOAT)])
RESIDUE: dict[str, tuple[list[str], dict[str, Any]]] = {
    "ConstantOfShape": (["three"], {}),
    "Range": (["zero", "one", "one"], {}),
    "Mod": (["floats", "two"], {"fmod": 1}),
    "If": (["yes"], {"then_branch": BRANCH, "else_branch": BRANCH}),
    "Loop": (["one", "yes", "floats"], {"body": body("step", "go", "x")}),
    "Scan": (["floats"], {"body": body("x"), "num_scan_inputs": 1}),
}


@pytest.mark.parametrize("operator", sorted(SHAPE_RESIDUE))
def test_shapes_and_control_flow_at_run_time(operator: str) -> None:
    read, attributes = RESIDUE.get(operator, (["floats"], {}))
    residue = helper.make_node(operator, read, ["sizes"], "residue", **attributes)
    numbers: Constants = {"zero": np.array(0), "one": np.array(1), "three": np.array([3]), "yes": np.array(True)}
    (found,) = violations(between(MIDDLE, residue, **numbers))
    assert (found.place, found.operator) == ("residue", operator)
    assert "folded at export" in found.rule


def test_grid_sample_is_refused_though_the_parser_takes_it() -> None:
    (found,) = violations(between(node("GridSample", ["floats", "grid"]), grid=np.zeros((1, 8, 8, 2), np.float32)))
    assert (found.place, found.operator) == ("middle", "GridSample")
    assert "wrongly without an error" in found.rule
    assert "Gather" in found.remedy


@pytest.mark.parametrize("operator", ["Det", "BitShift", "MaxUnpool", "Col2Im", "StringNormalizer"])
def test_operators_the_parser_does_not_have(operator: str) -> None:
    found = violations(between(node(operator, ["floats"])))
    assert [(entry.place, entry.operator, entry.rule) for entry in found] == [
        ("middle", operator, "TensorRT's ONNX parser has no such operator at opset 18")
    ]


def test_the_table_holds_operators_of_the_opset_alone() -> None:
    for operator in SUPPORTED:
        assert onnx.defs.get_schema(operator, OPSET).since_version <= OPSET
    assert not SHAPE_RESIDUE & set(SUPPORTED)
    assert not WRONG_IN_TENSORRT & set(SUPPORTED)


PERMUTE = helper.make_node("Transpose", ["TILE"], ["planes"], "permute", perm=[0, 3, 1, 2])
CHANNELS = helper.make_node("ArgMax", ["floats"], ["index"], "argmax", axis=3, keepdims=0)
LABELS_OUT = (value("LABELS", UINT8, ("batch", 8, 8)),)


@pytest.mark.parametrize(
    ("broken", "place", "rule"),
    [
        (
            model(
                [PERMUTE, helper.make_node("Cast", ["planes"], ["LABELS"], "late", to=FLOAT)],
                outputs=[value("LABELS", FLOAT, ("batch", 3, 8, 8))],
            ),
            "permute",
            "uint8 'TILE' to be read by a Cast to float alone, got Transpose to UINT8",
        ),
        (
            model([FIRST, CHANNELS, helper.make_node("Cast", ["index"], ["LABELS"], "last", to=UINT8)], outputs=LABELS_OUT),
            "last",
            "uint8 output 'LABELS' to be cast from float, got Cast of INT64",
        ),
        (
            model(
                [
                    helper.make_node("Cast", ["TILE"], ["wide"], "first", to=INT64),
                    helper.make_node("Cast", ["wide"], ["LABELS"], "x", to=FLOAT),
                ],
                outputs=[value("LABELS", FLOAT)],
            ),
            "first",
            "uint8 'TILE' to be read by a Cast to float alone, got Cast to INT64",
        ),
        (
            model(
                [
                    FIRST,
                    MIDDLE,
                    helper.make_node("Cast", ["scaled"], ["bytes"], "last", to=UINT8),
                    helper.make_node("Cast", ["bytes"], ["LABELS"], "again", to=FLOAT),
                ],
                outputs=[value("LABELS", FLOAT)],
            ),
            "bytes",
            "this tensor is between them",
        ),
        (
            model(
                [FIRST, MIDDLE, LAST, helper.make_node("Cast", ["LABELS"], ["AGAIN"], "again", to=FLOAT)],
                outputs=[value("LABELS", UINT8), value("AGAIN", FLOAT)],
            ),
            "again",
            "uint8 'LABELS' to be read by a Cast",
        ),
        (
            model([FIRST, MIDDLE, LAST], outputs=[value("LABELS", UINT8), value("TILE", UINT8)]),
            "TILE",
            "uint8 output 'TILE' to be cast from float, got the input itself",
        ),
    ],
    ids=["permuted first", "from int64", "to int64", "between", "output read", "passed through"],
)
def test_uint8_only_at_the_ends(broken: onnx.ModelProto, place: str, rule: str) -> None:
    found = [entry for entry in violations(broken) if entry.place == place and rule in entry.rule]
    assert len(found) >= 1


@pytest.mark.parametrize("operator", ["Add", "Mul", "Sub", "Div", "Max", "Pow"])
def test_two_types_in_one_elementwise_operator(operator: str) -> None:
    """ONNX's own checker lets this pass, and a weakly typed TensorRT would cast it in silence."""
    found = [str(entry) for entry in violations(between(node(operator, ["floats", "half"]), half=np.array(2, np.float16)))]
    if operator == "Pow":  # ONNX allows an exponent of another type
        assert found == []
        return
    (text,) = found
    assert text.startswith(f"{operator} 'middle': expected one element type for T")
    assert "'half': 'FLOAT16'" in text


def test_two_types_where_inputs_are_joined_or_chosen() -> None:
    joined = between(helper.make_node("Concat", ["floats", "half"], ["scaled"], "middle", axis=0), half=np.ones((1, 8, 8, 3), np.float16))
    assert ["expected one element type for T" in entry.rule for entry in violations(joined)] == [True]
    chosen = between(node("Where", ["choice", "floats", "half"]), choice=np.array(True), half=np.array(2, np.float16))
    assert ["expected one element type for T" in entry.rule for entry in violations(chosen)] == [True]


def test_a_type_that_the_operator_has_in_onnx_but_not_in_tensorrt() -> None:
    whole = helper.make_node("Cast", ["floats"], ["whole"], "whole", to=INT64)
    clipped = helper.make_node("Clip", ["whole", "least"], ["clipped"], "clip")
    back = helper.make_node("Cast", ["clipped"], ["scaled"], "back", to=FLOAT)
    (found,) = violations(between(whole, clipped, back, least=np.array(0, np.int64)))
    assert (found.place, found.operator) == ("clip", "Clip")
    assert "['BFLOAT16', 'FLOAT', 'FLOAT16'], got INT64" in found.rule


NORM: Constants = {"gains": np.ones(3, np.float32)}
SCALE: Constants = {"step": np.array(0.5, np.float32)}


@pytest.mark.parametrize(
    ("nodes", "constants", "used"),
    [
        (
            [helper.make_node("LayerNormalization", ["floats", "scale"], ["scaled", "mean"], "middle")],
            NORM,
            "the outputs ['mean'] beside the first",
        ),
        ([node("Resize", ["floats", "", "factors"], mode="cubic")], {"factors": np.ones(4, np.float32)}, "{'mode': 'cubic'}"),
        ([node("Resize", ["floats", "", "factors"], mode="linear", antialias=1)], {"factors": np.ones(4, np.float32)}, "antialiasing"),
        ([node("MaxPool", ["floats"], kernel_shape=[2, 2], dilations=[2, 2])], {}, "dilations [2, 2]"),
        ([node("ReduceMean", ["floats", "floats"])], {}, "axes that are not constant"),
        ([node("ScatterND", ["floats", "index", "floats"], reduction="add")], {"index": np.zeros((1, 1), np.int64)}, "reduction add"),
        ([helper.make_node("TopK", ["floats", "k"], ["scaled", "order"], "middle")], {"k": np.array([4000])}, "K of 3840 or more"),
    ],
    ids=["two outputs", "cubic", "antialias", "dilated pooling", "axes", "scatter", "top"],
)
def test_restrictions_of_supported_operators(nodes: list[NodeProto], constants: Constants, used: str) -> None:
    rules = [entry.rule for entry in violations(between(*nodes, **constants))]
    assert f"TensorRT does not take {used}" in rules[0]


def quantized(zero_point: npt.NDArray[Any]) -> onnx.ModelProto:
    quantize = helper.make_node("QuantizeLinear", ["floats", "step", "zero"], ["whole"], "quantize")
    dequantize = helper.make_node("DequantizeLinear", ["whole", "step", "zero"], ["scaled"], "dequantize")
    return between(quantize, dequantize, zero=zero_point, **SCALE)


def test_quantization_is_signed_and_symmetric() -> None:
    assert violations(quantized(np.array(0, np.int8))) == ()
    assert any("zero point of int8 with values other than int8 0" in entry.rule for entry in violations(quantized(np.array(3, np.int8))))
    assert any("zero point of uint8" in entry.rule for entry in violations(quantized(np.array(0, np.uint8))))


@pytest.mark.parametrize(
    ("inputs", "outputs", "rule"),
    [
        (
            [value("TILE", UINT8, (4, 8, 8, 3))],
            [value("LABELS", UINT8, (4, 8, 8, 3))],
            "named batch '' of the first input, got [4, 8, 8, 3]",
        ),
        ([value("TILE", UINT8)], [value("LABELS", UINT8, ("n", 8, 8, 3))], "named batch 'batch' of the first input, got ['n', 8, 8, 3]"),
        (
            [value("TILE", UINT8, ("batch", "h", 8, 3))],
            [value("LABELS", UINT8, ("batch", "h", 8, 3))],
            "static axes behind the batch, got ['batch', 'h', 8, 3]",
        ),
    ],
    ids=["no batch", "two batches", "dynamic height"],
)
def test_one_named_batch_axis_and_static_dims(inputs: list[Any], outputs: list[Any], rule: str) -> None:
    found = [str(entry) for entry in violations(model([FIRST, MIDDLE, LAST], inputs=inputs, outputs=outputs))]
    assert any(rule in text for text in found)


def test_float64_and_large_integers() -> None:
    doubles = between(
        helper.make_node("Cast", ["floats"], ["exact"], "widen", to=DOUBLE),
        helper.make_node("Cast", ["exact"], ["scaled"], "narrow", to=FLOAT),
    )
    assert any(entry.place == "exact" and "no float64" in entry.rule for entry in violations(doubles))
    wide = between(node("Gather", ["floats", "far"], axis=0), far=np.array([2**40]))
    assert [entry.rule for entry in violations(wide)] == [f"expected integers within int32, got {2**40} to {2**40}"]


def test_a_slice_to_the_end_may_name_the_largest_integer() -> None:
    """torch writes `x[1:]` so; ONNX cuts it to the axis."""
    ends: Constants = {"start": np.array([1]), "end": np.array([2**63 - 1]), "axis": np.array([3])}
    sliced = between(node("Slice", ["floats", "start", "end", "axis"]), **ends)
    assert violations(sliced) == ()


def test_another_opset_or_domain() -> None:
    custom = model([FIRST, MIDDLE, LAST])
    custom.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert [entry.rule for entry in violations(custom)] == [
        "expected the standard operators of opset 18 alone, got [('', 18), ('com.microsoft', 1)]"
    ]


def test_the_error_names_node_operator_rule_and_remedy_and_counts_the_rest() -> None:
    shapes = [helper.make_node("Shape", ["floats"], [f"sizes{index}"], f"shape{index}") for index in range(10)]
    with pytest.raises(GraphError) as caught:
        check_tensorrt(between(MIDDLE, *shapes))
    text = str(caught.value)
    assert text.startswith("graph 'made': 10 places break the rules of TensorRT 10.12 to 11:\n- Shape 'shape0': expected shapes")
    assert "scale_factor, -1 or a constant" in text
    assert text.endswith("- and 2 more")
    assert "shape8" not in text


BCSS = get_task("bcss")
CLASSES = len(BCSS.classes)


def segmenter(encoder: str, stages: tuple[int, ...], decoder: Any, width: int, **options: Any) -> SegmentNet:
    network = Segmenter(SegmenterConfig(encoder, stages, CLASSES, width, decoder, **options))
    return SegmentNet(network, BCSS.normalization, network.cell_px)


def classifier(encoder: str, stages: tuple[int, ...], **options: Any) -> CamNet:
    network = Classifier(ClassifierConfig(encoder, stages, CLASSES, **options))
    return CamNet(network, BCSS.normalization, network.cell_px)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: segmenter("swin_tiny_patch4_window7_224", (0, 1, 2, 3), "mask2former", 256),
        lambda: segmenter("resnet50", (0, 1, 2, 3, 4), "unetplusplus", 16, has_background=False, attention="scse"),
        lambda: segmenter("resnet50", (2, 3), "pspnet", 512, has_background=False),
        lambda: segmenter("convnext_atto", (0, 1, 2, 3), "fpn", 64),
        lambda: classifier("resnet38", (0, 1, 2)),
        lambda: classifier("convnext_atto", (3,), relocalize=True),
        lambda: classifier("swinv2_tiny_window8_256", (3,), final_norm=True),
    ],
    ids=["Swin-T Mask2Former", "UNet++", "PSPNet", "ConvNeXt FPN", "ResNet-38 of three stages", "relocalized ConvNeXt", "SwinV2-T"],
)
def test_what_the_networks_of_training_export_to(make: Callable[[], SegmentNet | CamNet]) -> None:
    wrapper = make()
    kind: Any = "segment" if isinstance(wrapper, SegmentNet) else "cam"
    exported = to_onnx(wrapper, network_signature(kind, BCSS, wrapper.cell_px))
    fold(exported)
    check_tensorrt(exported)
