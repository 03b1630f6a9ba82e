"""Publishes a release into the model repository, moves the callers' entries between releases and removes old ones. Knows no network.

Order (DESIGN "What Triton serves"): the release's own models first, each whole through a rename, the frozen ensembles last
of these; then the callers' entries, each by one `os.replace` of its `config.pbtxt`. That replace is the commit point.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.check import VERSION, check_repository
from serving.contract import Kind
from serving.modelconfig import FILE_NAME, ONNX_FILE, EnsembleConfig, contract_of, read_config, replaced

from .card import CARD_FILE, damaged_files, read_card
from .errors import PublishError
from .layout import KINDS, entry_name, image_name, parse_model_name, release_prefix
from .parity import Precision, parse_precision
from .release import RELEASE_FILE, Draft, write_ensemble, write_release
from .staging import exclusive, model_folders, move_models, sync, sync_folder

REMOVED = ".removed"  # prefixes of removed releases: masks on disk name them, so their numbers are not given again
_RELEASE_MODEL = re.compile(r"(.+?)_r(\d+)_.+")


@dataclass(frozen=True)
class Release:
    """A release that is whole in the repository.

    Attributes:
        kinds: what it can answer; each has a frozen ensemble.
        models: the names of all its models.
        checkpoint_sha256: what it was exported from; None where its notes do not say.
        precisions: of the networks; fp32 where its notes are from before there was a choice.
        graph_sha256: digests of its ONNX files by model.
        created: ISO 8601; None where its notes do not say.
    """

    name: str
    number: int
    kinds: tuple[Kind, ...]
    models: tuple[str, ...]
    checkpoint_sha256: str | None
    precisions: Mapping[Kind, Precision] = field(default_factory=dict)
    graph_sha256: Mapping[str, str] = field(default_factory=dict)
    created: str | None = None

    @property
    def prefix(self) -> str:
        """What the names of its models begin with."""
        return release_prefix(self.name, self.number)

    def frozen(self, kind: Kind) -> str:
        """The name of the frozen ensemble of that kind."""
        return f"{self.prefix}_{kind}"


def publish(repository: Path, name: str, draft: Draft) -> Release:
    """Write the next release of `name` and point the callers' entries to it.

    Raises:
        ParityError: a graph did not pass; nothing is written.
        PublishError: the repository cannot take it; the entries stay as they were.
        RepositoryError: the models written do not fit together: a bug of ours, found before anybody can serve them.
    """
    parse_model_name(name)
    for graphs in draft.graphs:
        for report in graphs.reports:
            report.require()
    with exclusive(repository) as staging:
        number = _next_number(repository, name)
        models = write_release(staging, release_prefix(name, number), draft)
        check_repository(staging, models)
        move_models(staging, repository, models)
        release = get_release(repository, name, number)
        _point_entries(repository, staging, release)
    return release


def roll_back(repository: Path, name: str, number: int) -> Release:
    """Point the callers' entries to a release that is already there.

    Raises:
        PublishError: no such release, it is not whole, or a file of it has changed.
        RepositoryError: its models do not fit together.
    """
    with exclusive(repository) as staging:
        release = get_release(repository, name, number)
        faults = damaged_files(repository, digests_of(repository, release))
        if faults:
            raise PublishError(
                f"release {release.prefix!r}: expected the files it was published with: {'; '.join(faults)}: take another release"
            )
        check_repository(repository, release.models)
        _point_entries(repository, staging, release)
    return release


def digests_of(repository: Path, release: Release) -> dict[str, str]:
    """SHA-256 by file: of the release's card, or of its graphs alone where it is from before there were cards.

    Raises:
        PublishError: the card cannot be read.
    """
    card = read_card(repository / release.frozen(release.kinds[0]) / CARD_FILE)
    if card is not None:
        return dict(card["files"])
    return {f"{model}/{VERSION}/{ONNX_FILE}": digest for model, digest in release.graph_sha256.items()}


def releases(repository: Path, name: str) -> list[Release]:
    """The whole releases of `name`, oldest first; what an interrupted export left behind is not one."""
    found = (read_release(repository, name, number) for number in _numbers(repository, name))
    return [release for release in found if release is not None]


def get_release(repository: Path, name: str, number: int) -> Release:
    """One whole release.

    Raises:
        PublishError: there is none of that number; the message lists those there are.
    """
    release = read_release(repository, name, number)
    if release is None:
        there = ", ".join(f"r{found.number}" for found in releases(repository, name)) or "none"
        raise PublishError(f"{repository}: expected a whole release r{number} of {name!r}, found {there}")
    return release


def current_release(repository: Path, name: str, kind: Kind) -> str | None:
    """The frozen ensemble behind the callers' entry; None where there is no entry."""
    entry = repository / entry_name(name, kind)
    return contract_of(read_config(entry)).release if entry.is_dir() else None


def _point_entries(repository: Path, staging: Path, release: Release) -> None:
    """Make the callers' entries copies of the release's frozen ensembles; each changes in one step.

    A segmenter's image entry goes with it. A release from before there were image entries has none: then the entry goes, since it would answer
    from another release than its segmenter.
    """
    for kind in release.kinds:
        frozen, entry = release.frozen(kind), entry_name(release.name, kind)
        _point_entry(repository, staging, frozen, entry)
        if image_name(frozen) in release.models:
            _point_entry(repository, staging, image_name(frozen), image_name(entry))
        elif (repository / image_name(entry)).is_dir():
            os.rename(repository / image_name(entry), staging / image_name(entry))
    sync_folder(repository)


def _point_entry(repository: Path, staging: Path, frozen_name: str, name: str) -> None:
    frozen = read_config(repository / frozen_name)
    if not isinstance(frozen, EnsembleConfig):
        raise PublishError(f"{repository / frozen.name}: expected an ensemble, got a model of backend {frozen.backend!r}")
    entry = write_ensemble(staging, replaced(frozen, name))
    sync(staging / entry)
    if (repository / entry).is_dir():
        os.replace(staging / entry / FILE_NAME, repository / entry / FILE_NAME)
    else:
        os.rename(staging / entry, repository / entry)
    sync_folder(repository / entry)


def _numbers(repository: Path, name: str) -> list[int]:
    """Every release number that any folder bears, whole or not."""
    return sorted({number for found, number in release_numbers(repository) if found == name})


def release_numbers(repository: Path) -> list[tuple[str, int]]:
    """(name, number) of every release that any folder bears, whole or not."""
    matches = (_RELEASE_MODEL.fullmatch(model) for model in model_folders(repository))
    return sorted({(match[1], int(match[2])) for match in matches if match})


def _next_number(repository: Path, name: str) -> int:
    path = repository / REMOVED
    removed = path.read_text(encoding="utf-8").split() if path.is_file() else []
    gone = [int(number) for found, _, number in (prefix.rpartition("_r") for prefix in removed) if found == name]
    return max([*_numbers(repository, name), *gone], default=0) + 1


def read_release(repository: Path, name: str, number: int) -> Release | None:
    """The release, or None where a model of it is missing.

    Raises:
        PublishError: its notes cannot be read.
    """
    prefix = release_prefix(name, number)
    kinds = tuple(kind for kind in KINDS if (repository / f"{prefix}_{kind}" / RELEASE_FILE).is_file())
    if not kinds:
        return None
    path = repository / f"{prefix}_{kinds[0]}" / RELEASE_FILE
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        models, sha256 = tuple(notes["models"]), notes.get("checkpoint", {}).get("sha256")
        precisions = {kind: parse_precision(notes.get("precision", {}).get(kind, "fp32")) for kind in kinds}
        graphs, created = dict(notes.get("sha256", {})), notes.get("created")
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise PublishError(
            f"{path}: expected the notes of a release, cannot read them ({error!r}): remove the release or export again"
        ) from error
    if not all((repository / model / FILE_NAME).is_file() for model in models):
        return None
    return Release(name, number, kinds, models, sha256, precisions, graphs, created)
