"""Writes `clients/API.md`, what callers in any language need to know, from the configurations of a model repository. Knows no server.

Run: `make api`, or `python -m clients.api_page`; a test fails when the page does not say what the repository holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from serving.contract import CAM, IMAGE, LABELS, PROBABILITIES, SCORES, TILE, Contract, TissueTask
from serving.errors import ConfigError
from serving.modelconfig import Config, EnsembleConfig, ModelConfig, Tensor, read_config
from serving.queue_limits import without_unsafe_limits

FOLDER = Path(__file__).parent
PAGE = FOLDER / "API.md"
REPOSITORY = FOLDER.parent / "model_repository"
ENTRIES = ("default_segment", "default_segment_image", "default_cam")

_OWN = ", or the request's own `timeout`"
_KSERVE = {"TYPE_UINT8": "UINT8", "TYPE_FP32": "FP32", "TYPE_STRING": "BYTES"}
_MEANINGS = {
    TILE: "RGB pixels at the model's scale, 0…255, row by row",
    IMAGE: "one JPEG, PNG or WebP file of exactly a tile's size, 8 bits, opaque",
    LABELS: "0 = background, 1…C = the classes in order",
    PROBABILITIES: "255 = certain; channel 0 = background, then the classes; one value per cell",
    CAM: "0…1, each map normalized to its own maximum; the classes in order",
    SCORES: "0…1, how sure the network is that the class is on the tile",
}


@dataclasses.dataclass(frozen=True)
class Served:
    """A callers' entry with the steps that its requests wait in.

    Attributes:
        steps: in the order of the ensemble, with the queue limits that the container's Triton gets.
        limited: the steps that keep their limit in the wheel's Triton as well.
    """

    config: EnsembleConfig
    contract: Contract
    steps: tuple[ModelConfig, ...]
    limited: frozenset[str]


def read_entry(repository: Path, name: str) -> Served:
    """An entry of a repository.

    Raises:
        ServingError: it is not there, damaged, or no ensemble.
        ContractError: it is none of ours.
    """
    entry = read_config(repository / name)
    if not isinstance(entry, EnsembleConfig):
        raise ConfigError(f"{repository / name}: expected an ensemble, got a single model: name a callers' entry such as default_segment")
    steps: list[Config] = [read_config(repository / step.model) for step in entry.steps]
    limited = {
        config.name for config in without_unsafe_limits([entry, *steps]) if isinstance(config, ModelConfig) and config.max_queue_size
    }
    models = tuple(step for step in steps if isinstance(step, ModelConfig))
    return Served(entry, Contract.from_parameters(entry.parameters), models, frozenset(limited))


def render(repository: Path, names: tuple[str, ...] = ENTRIES) -> str:
    """The page."""
    entries = [read_entry(repository, name) for name in names]
    guide = (FOLDER / "api_guide.md").read_text()
    tables = "\n".join([*_task(entries[0].contract), *(line for entry in entries for line in _entry(entry))])
    return guide.replace("<!-- entries -->", tables.rstrip("\n"))


def _task(contract: Contract) -> Iterator[str]:
    task = contract.task
    yield f"Task `{task.name}`: tiles of {task.tile_px} × {task.tile_px} px at {task.mpp:g} µm per pixel; cells of {contract.cell_px} × {contract.cell_px} px."
    yield f"{_background(task)}\n"
    yield "| label | class | color (sRGB) |\n|---|---|---|"
    yield "| 0 | background | none |"
    for label, tissue in enumerate(task.classes, start=1):
        yield f"| {label} | {tissue.name} | {', '.join(map(str, tissue.color))} (`#{bytes(tissue.color).hex()}`) |"
    yield ""


def _background(task: TissueTask) -> str:
    if task.background is None:
        return "The task has no background rule: label 0 is the network's own."
    rule = task.background
    return (
        f"Background: pixels whose gray (Rec. 601) is above {rule.gray_above}, in 4-connected groups of {rule.min_size_px} pixels or more; "
        "the rule looks at each tile alone."
    )


def _entry(served: Served) -> Iterator[str]:
    config = served.config
    yield f"### `{config.name}`\n"
    yield f"Method `{served.contract.method}`, now release `{served.contract.frozen}`; 1…{config.max_batch_size} items per request (n).\n"
    yield "| tensor | direction | datatype | shape | meaning |\n|---|---|---|---|---|"
    for direction, tensors in (("in", config.inputs), ("out", config.outputs)):
        for tensor in tensors:
            yield f"| `{tensor.name}` | {direction} | {_KSERVE[tensor.data_type]} | {_shape(tensor)} | {_MEANINGS[tensor.name]} |"
    yield "\n| step | requests that may wait | longest wait in the queue | priorities |\n|---|---|---|---|"
    for step in served.steps:
        yield f"| `{step.name}` | {_waiting(step, served.limited)} | {_longest(step)} | {_priorities(step)} |"
    yield ""


def _shape(tensor: Tensor) -> str:
    return f"({', '.join(['n', *map(str, tensor.dims)])})"


def _waiting(step: ModelConfig, limited: frozenset[str]) -> str:
    if step.max_queue_size is None:
        return "no limit"
    return f"{step.max_queue_size}" if step.name in limited else f"{step.max_queue_size} (no limit in the wheel's Triton)"


def _longest(step: ModelConfig) -> str:
    timeout_us = step.options.queue_timeout_us
    if timeout_us is None:
        return "no limit"
    return f"{timeout_us / 1e6:g} s{_OWN if step.options.callers_shorten else ''}"


def _priorities(step: ModelConfig) -> str:
    given = step.options.priorities
    return "none" if given is None else f"1 (first)…{given.levels}, {given.default} where none is named"


def main() -> None:
    PAGE.write_text(render(REPOSITORY))


if __name__ == "__main__":
    main()
