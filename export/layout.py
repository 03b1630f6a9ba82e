"""Which models make up a release and how they are chained (DESIGN "What Triton serves"). Configurations only; writes nothing."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from serving.contract import BACKGROUND, IMAGE, SLIDE_OUTPUTS, TILE, Contract, Kind, TissueTask
from serving.modelconfig import EnsembleConfig, ModelConfig, Step

from .errors import PublishError
from .signature import NET_PREFIX, Signature, background_signature, decode_signature, labels_signature, network_signature
from .targets import Target, apply_target
from .to_onnx import MAX_BATCH

# Only the network waits for a batch to fill: the steps behind it receive whole batches already. Callers at the limit find a queue anyway, and one
# alone pays for the wait: with 2 ms the default gave a caller of single tiles 163 answers a second instead of 268, four callers 393 instead of 502,
# sixteen 537 instead of 571 (embedded Triton, 2 cores, medians of 4 turns each).
NETWORK_QUEUE_DELAY_US = 500
# Requests (of up to 64 tiles) that wait for a step which callers feed; beyond, UNAVAILABLE. The combine graph is fed by these steps alone.
QUEUE_SIZE = 128
# Three times the work in OpenVINO (measured: 5.0 against 1.6 ms of CPU for 8 tiles of 128 px), and another rounding.
COMBINE_PARAMETERS = {"histoserve_engine": "onnxruntime"}
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
        image: as `frozen`, behind the decode step; what the callers' image entry is a copy of. None for CAMs.
    """

    net: ModelConfig
    labels: ModelConfig | None
    slide: EnsembleConfig
    frozen: EnsembleConfig
    image: EnsembleConfig | None


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


def image_name(segmenter: str) -> str:
    """The ensemble that takes image files instead of tiles: of an entry, or of a frozen ensemble."""
    return f"{segmenter}_image"


def decode_config(prefix: str, task: TissueTask) -> ModelConfig:
    """The python step that turns image files into tiles."""
    signature, tile = decode_signature(task), {"tile_px": str(task.tile_px)}
    return _python_step(f"{prefix}_decode", signature, tile)


def background_config(prefix: str, task: TissueTask) -> ModelConfig | None:
    """The python step that both kinds share; None where the task has no rule."""
    if task.background is None:
        return None
    signature = background_signature(task)
    rule = {"gray_above": str(task.background.gray_above), "min_size_px": str(task.background.min_size_px)}
    return _python_step(f"{prefix}_background", signature, rule)


def kind_layout(prefix: str, kind: Kind, task: TissueTask, method: str, cell_px: int, target: Target | None = None) -> KindLayout:
    """The configurations of one kind's models.

    Args:
        target: what they are to run on; None = wherever Triton is.
    """
    signature = network_signature(kind, task, cell_px)
    net = apply_target(_network(f"{prefix}_{kind}_net", signature), target, "network")
    contract = Contract(task, kind, method, cell_px, release=f"{prefix}_{kind}", slide_model=f"{prefix}_{kind}_slide")
    alone = Step(net.name, {TILE: TILE}, {tensor.name: tensor.name for tensor in signature.outputs})
    background = background_config(prefix, task)
    labels: ModelConfig | None = None
    steps: tuple[Step, ...] = (alone,)
    if background is not None:
        labels = apply_target(_combine(f"{prefix}_{kind}_labels", labels_signature(kind, task, cell_px)), target, "combine")
        steps = _chain(net, background, labels)
    frozen = EnsembleConfig(contract.release, signature.inputs, signature.outputs, steps, MAX_BATCH, contract.to_parameters())
    image = _behind_decode(prefix, frozen, contract) if kind == "segment" else None
    return KindLayout(net, labels, _slide_ensemble(contract, net, signature), frozen, image)


def _slide_ensemble(contract: Contract, net: ModelConfig, signature: Signature) -> EnsembleConfig:
    """The network, for the outputs that the slide client asks for and no other."""
    names = SLIDE_OUTPUTS[contract.kind]
    outputs = tuple(tensor for tensor in signature.outputs if tensor.name in names)
    step = Step(net.name, {TILE: TILE}, {name: name for name in names})
    return EnsembleConfig(contract.slide_model, signature.inputs, outputs, (step,), MAX_BATCH, contract.to_parameters())


def _network(name: str, signature: Signature) -> ModelConfig:
    return ModelConfig(
        name,
        "onnxruntime",
        signature.inputs,
        signature.outputs,
        MAX_BATCH,
        queue_delay_us=NETWORK_QUEUE_DELAY_US,
        max_queue_size=QUEUE_SIZE,
    )


def _combine(name: str, signature: Signature) -> ModelConfig:
    return ModelConfig(name, "onnxruntime", signature.inputs, signature.outputs, MAX_BATCH, parameters=COMBINE_PARAMETERS, queue_delay_us=0)


def _python_step(name: str, signature: Signature, parameters: dict[str, str]) -> ModelConfig:
    return ModelConfig(
        name,
        "python",
        signature.inputs,
        signature.outputs,
        MAX_BATCH,
        parameters,
        queue_delay_us=0,
        max_queue_size=QUEUE_SIZE,
        cpu_only=True,
    )


def _behind_decode(prefix: str, frozen: EnsembleConfig, contract: Contract) -> EnsembleConfig:
    """The same steps and outputs; TILE comes from the decode step and is no output, as no tensor may be that another step reads."""
    taking_images = dataclasses.replace(contract, takes="image")
    decode = decode_config(prefix, contract.task)
    first = Step(decode.name, {IMAGE: IMAGE}, {TILE: TILE})
    return EnsembleConfig(
        image_name(frozen.name), decode.inputs, frozen.outputs, (first, *frozen.steps), MAX_BATCH, taking_images.to_parameters()
    )


def _chain(net: ModelConfig, background: ModelConfig, labels: ModelConfig) -> tuple[Step, ...]:
    """Network and background rule side by side, then the combine graph, which alone gives the ensemble's outputs."""
    read = [tensor.name for tensor in labels.inputs if tensor.name.startswith(NET_PREFIX)]
    return (
        Step(net.name, {TILE: TILE}, {name.removeprefix(NET_PREFIX): name for name in read}),
        Step(background.name, {TILE: TILE}, {BACKGROUND: BACKGROUND}),
        Step(labels.name, {tensor.name: tensor.name for tensor in labels.inputs}, {tensor.name: tensor.name for tensor in labels.outputs}),
    )
