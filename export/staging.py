"""One writer of a model repository at a time, and models that appear whole, on the disk, or not at all. Knows no release."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import PublishError

STAGING = ".staging"  # inside the repository: a rename does not cross file systems
_LOCK = ".publish.lock"


@contextmanager
def exclusive(repository: Path) -> Iterator[Path]:
    """A fresh staging folder, for one writer at a time.

    Triton takes every folder of a repository for a model, so the staging folder is there only while something is written.
    """
    staging = repository / STAGING
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


def move_models(staging: Path, repository: Path, models: Sequence[str]) -> None:
    """Rename each model into place; where one cannot be, none stays."""
    sync(staging)
    moved: list[str] = []
    try:
        for model in models:
            moved.append(model)  # before it is: an interrupt may come between both
            os.rename(staging / model, repository / model)
    except BaseException:
        for model in moved:
            if not (staging / model).exists():
                shutil.rmtree(repository / model)
        raise
    sync_folder(repository)


def sync(folder: Path) -> None:
    """Get the files onto the disk before anything points to them: an entry must not survive a power cut that its model did not."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)


def sync_folder(folder: Path) -> None:
    """Get the names in a folder onto the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def model_folders(repository: Path) -> list[str]:
    """The folders that Triton would take for models, whole or not."""
    return sorted(path.name for path in repository.iterdir() if path.is_dir() and path.name != STAGING) if repository.is_dir() else []
