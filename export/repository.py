"""Publishes a release into the model repository, lists releases and moves the callers' entries between them. Knows no network.

Order (DESIGN "What Triton serves"): the release's own models first, each whole through a rename, the frozen ensembles last
of these; then the callers' entries, each by one `os.replace` of its `config.pbtxt`. That replace is the commit point.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.check import check_repository
from serving.contract import Kind
from serving.modelconfig import FILE_NAME, EnsembleConfig, contract_of, read_config, replaced

from .errors import PublishError
from .layout import KINDS, entry_name, parse_model_name, release_prefix
from .release import RELEASE_FILE, Draft, write_ensemble, write_release

_STAGING = ".staging"  # inside the repository: a rename does not cross file systems
_LOCK = ".publish.lock"


@dataclass(frozen=True)
class Release:
    """A release that is whole in the repository.

    Attributes:
        kinds: what it can answer; each has a frozen ensemble.
        models: the names of all its models.
        checkpoint_sha256: what it was exported from; None where its notes do not say.
    """

    name: str
    number: int
    kinds: tuple[Kind, ...]
    models: tuple[str, ...]
    checkpoint_sha256: str | None

    def frozen(self, kind: Kind) -> str:
        """The name of the frozen ensemble of that kind."""
        return f"{release_prefix(self.name, self.number)}_{kind}"


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
    with _exclusive(repository) as staging:
        number = _next_number(repository, name)
        models = write_release(staging, release_prefix(name, number), draft)
        check_repository(staging, models)
        _move_models(staging, repository, models)
        release = get_release(repository, name, number)
        _point_entries(repository, staging, release)
    return release


def roll_back(repository: Path, name: str, number: int) -> Release:
    """Point the callers' entries to a release that is already there.

    Raises:
        PublishError: no such release, or it is not whole.
    """
    with _exclusive(repository) as staging:
        release = get_release(repository, name, number)
        _point_entries(repository, staging, release)
    return release


def releases(repository: Path, name: str) -> list[Release]:
    """The whole releases of `name`, oldest first; what an interrupted export left behind is not one."""
    found = (_read_release(repository, name, number) for number in _numbers(repository, name))
    return [release for release in found if release is not None]


def get_release(repository: Path, name: str, number: int) -> Release:
    """One whole release.

    Raises:
        PublishError: there is none of that number; the message lists those there are.
    """
    release = _read_release(repository, name, number)
    if release is None:
        there = ", ".join(f"r{found.number}" for found in releases(repository, name)) or "none"
        raise PublishError(f"{repository}: expected a whole release r{number} of {name!r}, found {there}")
    return release


def current_release(repository: Path, name: str, kind: Kind) -> str | None:
    """The frozen ensemble behind the callers' entry; None where there is no entry."""
    entry = repository / entry_name(name, kind)
    return contract_of(read_config(entry)).release if entry.is_dir() else None


@contextmanager
def _exclusive(repository: Path) -> Iterator[Path]:
    """A fresh staging folder, for one writer at a time.

    Triton takes every folder of a repository for a model, so the staging folder is there only while something is written.
    """
    staging = repository / _STAGING
    try:
        repository.mkdir(parents=True, exist_ok=True)
        with open(repository / _LOCK, "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if staging.exists():  # left by an export that was killed
                shutil.rmtree(staging)
            staging.mkdir()
            try:
                yield staging
            finally:
                shutil.rmtree(staging)
    except BlockingIOError:
        raise PublishError(f"{repository}: another export is publishing into it: try again when it has finished") from None
    except OSError as error:
        raise PublishError(
            f"{repository}: expected a folder that releases can be written to: {error}: give another --repository"
        ) from error


def _move_models(staging: Path, repository: Path, models: Sequence[str]) -> None:
    """Rename each model into place; where one cannot be, none stays."""
    _sync(staging)
    moved: list[Path] = []
    try:
        for model in models:
            os.rename(staging / model, repository / model)
            moved.append(repository / model)
    except BaseException:
        for folder in moved:
            shutil.rmtree(folder)
        raise


def _point_entries(repository: Path, staging: Path, release: Release) -> None:
    """Make the callers' entries copies of the release's frozen ensembles; each changes in one step."""
    for kind in release.kinds:
        frozen = read_config(repository / release.frozen(kind))
        if not isinstance(frozen, EnsembleConfig):
            raise PublishError(f"{repository / frozen.name}: expected an ensemble, got a model of backend {frozen.backend!r}")
        entry = write_ensemble(staging, replaced(frozen, entry_name(release.name, kind)))
        _sync(staging / entry)
        if (repository / entry).is_dir():
            os.replace(staging / entry / FILE_NAME, repository / entry / FILE_NAME)
        else:
            os.rename(staging / entry, repository / entry)


def _sync(folder: Path) -> None:
    """Get the files onto the disk before anything points to them: an entry must not survive a power cut that its model did not."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _numbers(repository: Path, name: str) -> list[int]:
    """Every release number that any folder bears, whole or not."""
    pattern = re.compile(rf"{re.escape(name)}_r(\d+)_.+")
    matches = (pattern.fullmatch(path.name) for path in repository.iterdir()) if repository.is_dir() else ()
    return sorted({int(match[1]) for match in matches if match})


def _next_number(repository: Path, name: str) -> int:
    return max(_numbers(repository, name), default=0) + 1


def _read_release(repository: Path, name: str, number: int) -> Release | None:
    """The release, or None where a model of it is missing."""
    prefix = release_prefix(name, number)
    kinds = tuple(kind for kind in KINDS if (repository / f"{prefix}_{kind}" / RELEASE_FILE).is_file())
    if not kinds:
        return None
    path = repository / f"{prefix}_{kinds[0]}" / RELEASE_FILE
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
        models, sha256 = tuple(notes["models"]), notes.get("checkpoint", {}).get("sha256")
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise PublishError(
            f"{path}: expected the notes of a release, cannot read them ({error!r}): remove the release or export again"
        ) from error
    if not all((repository / model / FILE_NAME).is_file() for model in models):
        return None
    return Release(name, number, kinds, models, sha256)
