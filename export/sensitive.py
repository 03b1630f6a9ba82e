"""Which nodes of a graph stay fp32 whatever the rest becomes: its two ends, and operators that sum, divide or exponentiate. Knows no precision."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

# Sums over many cells and exponentials: few operations, much of the error.
SENSITIVE = (
    "InstanceNormalization",
    "LayerNormalization",
    "Softmax",
    "Sigmoid",
    "Exp",
    "GlobalAveragePool",
    "ReduceL2",
    "ReduceMean",
    "ReduceSum",
)


@dataclass(frozen=True)
class Ends:
    """Both ends of a graph, as indices of its nodes.

    Attributes:
        outer: reads the input before any layer with weights (the normalization), or lies behind the last one (softmax, rounding to levels and their
            enlargement, division by a CAM's peak).
        first: layers with weights that read `outer` alone.
        last: layers with weights that none follows (the head).
    """

    outer: frozenset[int]
    first: frozenset[int]
    last: frozenset[int]


def find_ends(graph: onnx.GraphProto) -> Ends:
    """The ends of a topologically sorted graph without subgraphs."""
    read = [_reaches_input(graph), _weighted_before(graph), _weighted_behind(graph)]
    outer, first, last = set(), set(), set()
    for index, node in enumerate(graph.node):
        from_input, is_after, is_before = (tensors[index] for tensors in read)
        if node.op_type in WEIGHTED:
            first |= set() if is_after else {index}
            last |= set() if is_before else {index}
        elif not is_before or (from_input and not is_after):
            outer.add(index)
    return Ends(frozenset(outer), frozenset(first), frozenset(last))


def _reaches_input(graph: onnx.GraphProto) -> list[bool]:
    """Per node: whether it depends on the graph's input at all."""
    reached = {value.name for value in graph.input}
    found = []
    for node in graph.node:
        found.append(not reached.isdisjoint(node.input))
        reached.update(node.output if found[-1] else ())
    return found


def _weighted_before(graph: onnx.GraphProto) -> list[bool]:
    """Per node: whether a layer with weights lies before it."""
    behind: set[str] = set()
    found = []
    for node in graph.node:
        found.append(not behind.isdisjoint(node.input))
        behind.update(node.output if found[-1] or node.op_type in WEIGHTED else ())
    return found


def _weighted_behind(graph: onnx.GraphProto) -> list[bool]:
    """Per node: whether a layer with weights lies behind it."""
    before: set[str] = set()
    found = []
    for node in reversed(graph.node):
        found.append(not before.isdisjoint(node.output))
        before.update(node.input if found[-1] or node.op_type in WEIGHTED else ())
    return found[::-1]
