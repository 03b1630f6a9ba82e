"""The model card of a release (`card.json`): what it learned from, how well it does, and the SHA-256 of each of its files. Knows no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.contract import Contract
from serving.modelconfig import EnsembleConfig, contract_of

from .errors import PublishError
from .graphs import KindGraphs
from .provenance import sha256

CARD_FILE = "card.json"  # beside the frozen ensemble's config.pbtxt
CARD_VERSION = 1
_USE = "research use only, not a medical device"
_PRIVATE = ("images", "features")  # of `histoserve evaluate --json`: names of slides, and pages of numbers


@dataclass(frozen=True)
class Metrics:
    """What `histoserve evaluate --json` said of the model.

    Attributes:
        file: name of the file it was read from.
        values: plain values, without the single images.
    """

    file: str
    values: Mapping[str, Any]


def read_metrics(path: Path, class_names: Sequence[str]) -> Metrics:
    """Read a file of `histoserve evaluate --json`.

    Raises:
        PublishError: no such file, or figures of other classes than the model's.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PublishError(f"{path}: expected what `histoserve evaluate --json` printed, cannot read it: {error}") from error
    classes = values.get("classes") if isinstance(values, dict) else None
    if classes != list(class_names):
        raise PublishError(f"{path}: expected figures of the classes {list(class_names)}, got {classes}: evaluate this model with --json")
    return Metrics(path.name, {key: value for key, value in values.items() if key not in _PRIVATE})


def write_cards(
    folder: Path,
    models: Sequence[str],
    frozen: Sequence[tuple[EnsembleConfig, KindGraphs]],
    notes: Mapping[str, Any],
    metrics: Metrics | None,
) -> None:
    """Write the card of every frozen ensemble; everything else of the release must lie there already.

    Args:
        folder: holds the release's models.
        frozen: the ensembles and what they were made of; the metrics are the first one's, as those of a release are its segmenter's.
        notes: of `release.json`.
    """
    files = file_digests(folder, models)
    for index, (config, graphs) in enumerate(frozen):
        card = {**_describe(contract_of(config), graphs, notes), "metrics": None, "files": files}
        if metrics is not None and index == 0:
            card["metrics"] = {"file": metrics.file, **metrics.values}
        (folder / config.name / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def file_digests(folder: Path, models: Sequence[str]) -> dict[str, str]:
    """SHA-256 by path below the folder, of every file of the models but the cards themselves."""
    paths = (path for model in models for path in sorted((folder / model).rglob("*")) if path.is_file() and path.name != CARD_FILE)
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def damaged_files(repository: Path, digests: Mapping[str, str]) -> list[str]:
    """The files that are missing or hold something else, each with which of both."""
    faults = []
    for name, digest in digests.items():
        path = repository / name
        if not path.is_file():
            faults.append(f"{name} is missing")
        elif sha256(path) != digest:
            faults.append(f"{name} has changed")
    return faults


def read_card(path: Path) -> dict[str, Any] | None:
    """A card; None where there is none: releases from before there were cards have none.

    Raises:
        PublishError: it cannot be read.
    """
    if not path.is_file():
        return None
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        dict(card["files"])
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise PublishError(
            f"{path}: expected the card of a release, cannot read it ({error!r}): remove the release or export again"
        ) from error
    found: dict[str, Any] = card
    return found


def _describe(contract: Contract, graphs: KindGraphs, notes: Mapping[str, Any]) -> dict[str, Any]:
    training = dict(notes.get("training", {}))
    recipe = training.pop("recipe", None)
    return {
        "card": CARD_VERSION,
        "release": contract.release,
        "kind": contract.kind,
        "use": _USE,
        "task": contract.task.name,
        "classes": list(contract.task.class_names),
        "mpp": contract.task.mpp,
        "tile_px": contract.task.tile_px,
        "cell_px": contract.cell_px,
        "method": contract.method,
        "recipe": recipe,
        "data": None
        if recipe is None
        else {key: recipe.get(key) for key in ("data", "data_format")} | {"patches": training.get("patches")},
        "training": training,
        "checkpoint": notes.get("checkpoint"),
        "precision": graphs.precision,
        "precision_cost": None if graphs.cost is None else graphs.cost.to_dict(),
        "parity": [report.to_dict() for report in graphs.reports],
        "versions": notes.get("versions"),
        "created": notes.get("created"),
    }
