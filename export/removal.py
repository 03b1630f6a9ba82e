"""Deletes releases that nothing points to any more. Knows no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from serving.check import model_names, needed_models
from serving.modelconfig import read_config

from .errors import PublishError
from .layout import KINDS, release_prefix
from .repository import REMOVED, release_numbers
from .staging import exclusive, model_folders, sync_folder


def remove(repository: Path, name: str, number: int) -> tuple[str, ...]:
    """Delete a release, whole or left behind by an export that was killed; its models' names.

    A server that is running keeps what it has loaded. The number is not given again.

    Raises:
        PublishError: there is none of that number, or another model needs one of its models.
    """
    prefix = release_prefix(name, number)
    with exclusive(repository) as staging:
        models = tuple(model for model in model_folders(repository) if model.startswith(f"{prefix}_"))
        if not models:
            there = ", ".join(f"r{found}" for owner, found in release_numbers(repository) if owner == name) or "none"
            raise PublishError(f"{repository}: expected a release r{number} of {name!r} to remove, found {there}")
        _require_unused(repository, prefix, models)
        with open(repository / REMOVED, "a", encoding="utf-8") as removed:
            print(prefix, file=removed, flush=True)
            os.fsync(removed.fileno())
        frozen = [f"{prefix}_{kind}" for kind in KINDS]
        for model in sorted(models, key=lambda model: model not in frozen):  # first what makes it a release
            os.rename(repository / model, staging / model)
        sync_folder(repository)
    return models


def _require_unused(repository: Path, prefix: str, models: Sequence[str]) -> None:
    for model in model_names(repository):
        if model in models:
            continue
        if set(needed_models(read_config(repository / model))) & set(models):
            raise PublishError(
                f"release {prefix!r}: expected one that nothing points to, but {model!r} does: roll back to another release first "
                "(histoserve export --rollback), or publish one"
            )
