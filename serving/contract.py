"""What a served model promises: classes, scale, tile and tensor names, stated once. Standard library only; knows no server and no framework."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CONTRACT_VERSION = 1
BACKGROUND_INDEX = 0  # on disk and on the wire: 0 = background, 1…C = the task's classes in order

# Tensor names of the served models (DESIGN "What Triton serves").
TILE = "TILE"  # uint8 (tile_px, tile_px, 3), RGB
IMAGE = "IMAGE"  # bytes (1,), the JPEG, PNG or WebP file of one tile
LABELS = "LABELS"  # uint8 (tile_px, tile_px), 0…C
PROBABILITIES = "PROBABILITIES"  # uint8 (C + 1, h, w) on the cell grid, 255 = certain
CAM = "CAM"  # float32 (C, h, w), 0…1, normalized to its own maximum
SCORES = "SCORES"  # float32 (C,), sigmoid of the image-level logits
BACKGROUND = "BACKGROUND"  # uint8 (tile_px, tile_px), 1 = background by the task's rule

Kind = Literal["segment", "cam"]
Input = Literal["tile", "image"]
Rgb = tuple[int, int, int]

# All that a release's slide model gives, by its kind. An ensemble has each step compute whatever its map names, asked for or not: labels, which
# slides get from blended cells, would be upsampled for nothing, at a third more for the default's network.
SLIDE_OUTPUTS: Mapping[Kind, tuple[str, ...]] = {"segment": (PROBABILITIES,), "cam": (CAM, SCORES)}

_PREFIX = "histoserve."
_TASK_KEYS = ("classes", "mpp", "tile_px", "normalization", "background", "label_encoding")


class ContractError(ValueError):
    """A contract, or the parameters that should carry one, cannot be used; the message says which field, what was expected and what came."""


@dataclass(frozen=True)
class TissueClass:
    """One tissue class: its name and the color in which masks show it (sRGB, 0…255)."""

    name: str
    color: Rgb

    def __post_init__(self) -> None:
        if not self.name:
            raise ContractError("tissue class: expected a name, got an empty string")
        if len(self.color) != 3 or not all(0 <= channel <= 255 for channel in self.color):
            raise ContractError(f"tissue class {self.name!r}: expected a color of three values 0…255, got {self.color}")


@dataclass(frozen=True)
class Normalization:
    """Per-channel mean and standard deviation of RGB scaled to 0…1. Lives in the exported graph; here it is a record."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class BackgroundRule:
    """Background by color (thesis §4.3.2): Rec. 601 gray > `gray_above`, components (connectivity 1) of fewer than `min_size_px` pixels dropped."""

    gray_above: int
    min_size_px: int


@dataclass(frozen=True)
class TissueTask:
    """A segmentation task: ordered classes 1…C, the scale and tile the network was trained at, and its data set's label encoding.

    Attributes:
        mpp: micrometers per pixel of the tiles the network sees.
        tile_px: side of a tile in pixels.
        background: the color rule for class 0, or None where the task has no background.
        label_encoding: (raw index in the data set's masks, label 0…C) pairs.
    """

    name: str
    classes: tuple[TissueClass, ...]
    mpp: float
    tile_px: int
    normalization: Normalization
    background: BackgroundRule | None
    label_encoding: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        names = [tissue.name for tissue in self.classes]
        if not names or len(set(names)) != len(names) or len(names) > 254:
            raise ContractError(f"task {self.name!r}: expected 1…254 classes with different names, got {names}")
        if not 0.05 <= self.mpp <= 20:
            raise ContractError(f"task {self.name!r}: expected mpp within 0.05…20 µm per pixel, got {self.mpp}")
        if self.tile_px <= 0 or self.tile_px % 32:
            raise ContractError(f"task {self.name!r}: expected tile_px to be a positive multiple of 32, got {self.tile_px}")
        if any(not 0 <= label <= len(names) for _, label in self.label_encoding):
            raise ContractError(f"task {self.name!r}: label_encoding maps outside 0…{len(names)}: {self.label_encoding}")

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(tissue.name for tissue in self.classes)


@dataclass(frozen=True)
class Contract:
    """What the callers' entry `<m>_segment` or `<m>_cam` carries in its `config.pbtxt`.

    Attributes:
        cell_px: side in tile pixels of one cell of the PROBABILITIES or CAM grid; a power of two, so that bilinear upsampling is exact.
        release: the frozen ensemble behind the entry; a slide pins it, so that a new release cannot change it midway.
        slide_model: the release's ensemble of the network alone, what the slide client streams to.
        takes: what the ensemble is sent: TILE, or IMAGE (`<m>_segment_image`).
    """

    task: TissueTask
    kind: Kind
    method: str
    cell_px: int
    release: str
    slide_model: str
    takes: Input = "tile"

    def __post_init__(self) -> None:
        if self.kind not in ("segment", "cam"):
            raise ContractError(f"contract of {self.release!r}: expected kind 'segment' or 'cam', got {self.kind!r}")
        if self.cell_px < 1 or self.cell_px & (self.cell_px - 1) or self.task.tile_px % self.cell_px:
            raise ContractError(
                f"contract of {self.release!r}: expected cell_px to be a power of two that divides {self.task.tile_px}, got {self.cell_px}"
            )

    @property
    def frozen(self) -> str:
        """The frozen ensemble that takes the same input: what a callers' entry is a copy of."""
        return self.release if self.takes == "tile" else f"{self.release}_image"

    @property
    def grid_cells(self) -> int:
        """Side of the cell grid of one tile."""
        return self.task.tile_px // self.cell_px

    def to_parameters(self) -> dict[str, str]:
        """The contract as the string parameters of a `config.pbtxt`, in a stable order."""
        task = task_to_dict(self.task)
        fields: dict[str, str] = {"contract": str(CONTRACT_VERSION), "task": self.task.name}
        fields |= {key: json.dumps(task[key]) for key in _TASK_KEYS}
        fields |= {"kind": self.kind, "method": self.method, "cell_px": str(self.cell_px)}
        fields |= {"release": self.release, "slide_model": self.slide_model, "input": self.takes}
        return {_PREFIX + key: value for key, value in fields.items()}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str]) -> Contract:
        """Parse what `to_parameters` wrote; the only parser.

        Raises:
            ContractError: not a histoserve model, another contract version, or a field that is missing or malformed.
        """
        version = parameters.get(_PREFIX + "contract")
        if version is None:
            raise ContractError(f"expected the parameter {_PREFIX}contract, got none of it: this model was not exported by histoserve")
        if version != str(CONTRACT_VERSION):
            raise ContractError(f"expected contract version {CONTRACT_VERSION}, got {version}: use the histoserve that exported the model")
        try:
            field = {key.removeprefix(_PREFIX): value for key, value in parameters.items()}
            task = task_from_dict({"name": field["task"]} | {key: json.loads(field[key]) for key in _TASK_KEYS})
            return cls(
                task=task,
                kind=parse_kind(field["kind"]),
                method=field["method"],
                cell_px=int(field["cell_px"]),
                release=field["release"],
                slide_model=field["slide_model"],
                takes=parse_input(field.get("input", "tile")),  # contracts from before there was a choice
            )
        except KeyError as error:
            raise ContractError(f"expected the parameter {_PREFIX}{error.args[0]}, got none of it: export the model again") from error
        except json.JSONDecodeError as error:
            raise ContractError(f"expected JSON in the contract's parameters, got {error.doc!r}: export the model again") from error


def parse_kind(raw: str) -> Kind:
    """Parse the kind of a served entry."""
    if raw == "segment":
        return "segment"
    if raw == "cam":
        return "cam"
    raise ContractError(f"expected kind 'segment' or 'cam', got {raw!r}")


def parse_input(raw: str) -> Input:
    """Parse what a served entry takes."""
    if raw == "tile":
        return "tile"
    if raw == "image":
        return "image"
    raise ContractError(f"expected input 'tile' or 'image', got {raw!r}")


def task_to_dict(task: TissueTask) -> dict[str, Any]:
    """The task as JSON-ready values; `task_from_dict` is the inverse."""
    return dataclasses.asdict(task)


def task_from_dict(raw: Mapping[str, Any]) -> TissueTask:
    """Parse a task that `task_to_dict` wrote (lists may stand for tuples).

    Raises:
        ContractError: a field is missing or malformed.
    """
    try:
        background = raw["background"]
        normalization = raw["normalization"]
        return TissueTask(
            name=str(raw["name"]),
            classes=tuple(TissueClass(str(entry["name"]), _triple(entry["color"], int)) for entry in raw["classes"]),
            mpp=float(raw["mpp"]),
            tile_px=int(raw["tile_px"]),
            normalization=Normalization(_triple(normalization["mean"], float), _triple(normalization["std"], float)),
            background=None if background is None else BackgroundRule(int(background["gray_above"]), int(background["min_size_px"])),
            label_encoding=tuple((int(raw_index), int(label)) for raw_index, label in raw["label_encoding"]),
        )
    except KeyError as error:
        raise ContractError(f"task: expected the field {error.args[0]!r}, got only {sorted(raw)}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, ContractError):
            raise
        raise ContractError(f"task: a field is malformed: {error}") from error


def _triple(values: Any, convert: Any) -> Any:
    first, second, third = values
    return (convert(first), convert(second), convert(third))
