"""What releases a repository holds, which of them callers get, and whether their files are as they were published. Changes nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.contract import Kind

from .card import damaged_files
from .errors import ExportError, PublishError
from .layout import KINDS, entry_name, image_name, release_prefix
from .repository import Release, current_release, digests_of, get_release, read_release, release_numbers, releases

State = Literal["whole", "damaged", "incomplete"]
_RELEASE = re.compile(r"(?:(.+)_)?r(\d+)")


@dataclass(frozen=True)
class Listed:
    """One release of a repository.

    Attributes:
        release: None where it is incomplete, or its notes cannot be read.
        state: damaged = a file has changed or is missing; incomplete = left behind by an export or a removal that was stopped.
        faults: why it is not whole.
        current: kinds that the callers' entries take from it.
        size_bytes: of its files.
    """

    prefix: str
    release: Release | None
    state: State
    faults: tuple[str, ...]
    current: tuple[Kind, ...]
    size_bytes: int


def list_releases(repository: Path, name: str | None = None) -> list[Listed]:
    """Every release of one name, or of all, oldest first.

    Raises:
        PublishError: there is no such repository.
    """
    require_repository(repository)
    return [_look_at(repository, found, number) for found, number in release_numbers(repository) if name in (None, found)]


def parse_release(raw: str, name: str | None) -> tuple[str, int]:
    """(name, number) of a release as it is typed: demo_r2, or r2 beside the model's name.

    Raises:
        PublishError: it is neither.
    """
    match = _RELEASE.fullmatch(raw)
    if match is None or (match[1] is None) == (name is None):
        raise PublishError(f"release {raw!r}: expected one such as demo_r2, or r2 together with --name demo")
    return match[1] or name or "", int(match[2])


def find_releases(repository: Path, model: str) -> list[tuple[Release, Kind]]:
    """The release and kind behind what callers name: an entry (demo_segment), a model (demo: its entries), or a release (demo_r2).

    An image entry (demo_segment_image) is its segmenter behind a decode step, so it stands for that.

    Raises:
        PublishError: nothing bears that name.
    """
    require_repository(repository)
    match = _RELEASE.fullmatch(model)
    if match is not None and match[1] is not None:
        release = get_release(repository, match[1], int(match[2]))
        return [(release, kind) for kind in release.kinds]
    found = []
    if _is_image_entry(repository, model):
        model = model.removesuffix(image_name(""))
    for kind in KINDS:
        for name in (model, model.removesuffix(f"_{kind}")) if model.endswith(f"_{kind}") else (model,):
            frozen = current_release(repository, name, kind)
            found += [] if frozen is None else [(_behind(repository, name, frozen), kind)]
    if not found:
        there = ", ".join(sorted({name for name, _ in release_numbers(repository)})) or "none"
        raise PublishError(f"{repository}: expected a model, an entry or a release named {model!r}; it has the models {there}")
    return found


def require_repository(repository: Path) -> None:
    """Do nothing where it is a folder.

    Raises:
        PublishError: else.
    """
    if not repository.is_dir():
        raise PublishError(f"{repository}: expected a model repository, found no such folder: give another --repository")


def _is_image_entry(repository: Path, model: str) -> bool:
    return model.endswith(image_name(entry_name("", "segment"))) and (repository / model).is_dir()


def _behind(repository: Path, name: str, frozen: str) -> Release:
    for release in releases(repository, name):
        if frozen in release.models:
            return release
    raise PublishError(f"{repository}: expected the release behind {frozen!r} to be whole, it is not: roll back or export again")


def _look_at(repository: Path, name: str, number: int) -> Listed:
    prefix = release_prefix(name, number)
    size = sum(path.stat().st_size for path in repository.glob(f"{prefix}_*/**/*") if path.is_file())
    current = tuple(kind for kind in KINDS if current_release(repository, name, kind) == f"{prefix}_{kind}")
    try:
        release = read_release(repository, name, number)
        faults = () if release is None else tuple(damaged_files(repository, digests_of(repository, release)))
    except ExportError as error:
        return Listed(prefix, None, "damaged", (str(error),), current, size)
    if release is None:  # frozen ensembles come last and go first
        return Listed(prefix, None, "damaged" if current else "incomplete", ("a model of it is missing",), current, size)
    return Listed(prefix, release, "damaged" if faults else "whole", faults, current, size)
