"""Which models make up a release and how they are chained (DESIGN "What Triton serves"). Configurations only; writes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.contract import BACKGROUND, TILE, Contract, Kind, TissueTask
from serving.modelconfig import EnsembleConfig, ModelConfig, Step

from .errors import PublishError
from .signature import NET_PREFIX, Signature, background_signature, labels_signature, network_signature
from .targets import Target, apply_target
from .to_onnx import MAX_BATCH

# Only the network waits for a batch to fill: the steps behind it receive whole batches already.
NETWORK_QUEUE_DELAY_US = 2000
KINDS: tuple[Kind, ...] = ("segment", "cam")
_MODEL_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_RELEASE_PART = re.compile(r"(^|_)r\d+(_|$)")


@dataclass(frozen=True)
class KindLayout:
    """The models of one kind within a release.

    Attributes:
        labels: the combine graph; None where the task has no background rule, and the network's answer stands.
        slide: the network alone, what slide clients stream to.
        frozen: what the callers' entry is a copy of.
    """

    net: ModelConfig
    labels: ModelConfig | None
    slide: EnsembleConfig
    frozen: EnsembleConfig


def parse_model_name(raw: str) -> str:
    """A name under which releases can be published.

    Raises:
        PublishError: it would clash with the names that releases are given.
    """
    if not _MODEL_NAME.fullmatch(raw) or _RELEASE_PART.search(raw):
        raise PublishError(
            f"model name {raw!r}: expected lower-case letters, digits and single underscores, without a part like r1; e.g. bcss_pscl"
        )
    return raw


def release_prefix(name: str, number: int) -> str:
    """What the names of all models of a release begin with."""
    return f"{name}_r{number}"


def entry_name(name: str, kind: Kind) -> str:
    """The entry that callers use."""
    return f"{name}_{kind}"


def background_config(prefix: str, task: TissueTask) -> ModelConfig | None:
    """The python step that both kinds share; None where the task has no rule."""
    if task.background is None:
        return None
    signature = background_signature(task)
    rule = {"gray_above": str(task.background.gray_above), "min_size_px": str(task.background.min_size_px)}
    return ModelConfig(
        f"{prefix}_background", "python", signature.inputs, signature.outputs, MAX_BATCH, parameters=rule, queue_delay_us=0, cpu_only=True
    )


def kind_layout(prefix: str, kind: Kind, task: TissueTask, method: str, cell_px: int, target: Target | None = None) -> KindLayout:
    """The configurations of one kind's models.

    Args:
        target: what they are to run on; None = wherever Triton is.
    """
    signature = network_signature(kind, task, cell_px)
    net = apply_target(_graph(f"{prefix}_{kind}_net", signature, NETWORK_QUEUE_DELAY_US), target, "network")
    contract = Contract(task, kind, method, cell_px, release=f"{prefix}_{kind}", slide_model=f"{prefix}_{kind}_slide")
    parameters = contract.to_parameters()
    alone = Step(net.name, {TILE: TILE}, {tensor.name: tensor.name for tensor in signature.outputs})
    slide = EnsembleConfig(contract.slide_model, signature.inputs, signature.outputs, (alone,), MAX_BATCH, parameters)
    background = background_config(prefix, task)
    if background is None:
        frozen = EnsembleConfig(contract.release, signature.inputs, signature.outputs, (alone,), MAX_BATCH, parameters)
        return KindLayout(net, None, slide, frozen)
    labels = apply_target(_graph(f"{prefix}_{kind}_labels", labels_signature(kind, task, cell_px), 0), target, "combine")
    steps = _chain(net, background, labels)
    return KindLayout(
        net, labels, slide, EnsembleConfig(contract.release, signature.inputs, signature.outputs, steps, MAX_BATCH, parameters)
    )


def _graph(name: str, signature: Signature, queue_delay_us: int) -> ModelConfig:
    return ModelConfig(name, "onnxruntime", signature.inputs, signature.outputs, MAX_BATCH, queue_delay_us=queue_delay_us)


def _chain(net: ModelConfig, background: ModelConfig, labels: ModelConfig) -> tuple[Step, ...]:
    """Network and background rule side by side, then the combine graph, which alone gives the ensemble's outputs."""
    read = [tensor.name for tensor in labels.inputs if tensor.name.startswith(NET_PREFIX)]
    return (
        Step(net.name, {TILE: TILE}, {name.removeprefix(NET_PREFIX): name for name in read}),
        Step(background.name, {TILE: TILE}, {BACKGROUND: BACKGROUND}),
        Step(labels.name, {tensor.name: tensor.name for tensor in labels.inputs}, {tensor.name: tensor.name for tensor in labels.outputs}),
    )
