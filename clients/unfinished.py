"""The files of a store that is not whole yet: where they are, which belong to finished strips, what is cleared away. Knows no zarr."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from .journal import sync_file, sync_folder


def unfinished_path(store: Path) -> Path:
    """Where a store is before it is whole."""
    return store.with_name(f".{store.name}.partial")


def unfinished_files(store: Path) -> dict[str, int]:
    """All that an interrupted run left of a store: path within it → bytes."""
    return list_files(unfinished_path(store), unfinished_path(store))


def discard_unfinished(store: Path) -> None:
    """Remove what an interrupted run left of a store."""
    shutil.rmtree(unfinished_path(store), ignore_errors=True)


def list_files(root: Path, folder: Path) -> dict[str, int]:
    """Files below a folder: path from `root` → bytes."""
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def remove_all_but(folder: Path, kept: Mapping[str, int]) -> None:
    """Remove every file below a folder whose path from it is not among the kept ones, then the folders that are empty."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in kept:
            path.unlink(missing_ok=True)  # after an interrupt in this very process, zarr's threads may still be clearing up themselves


def sync_tree(folder: Path) -> None:
    """Have a folder and all in it on disk."""
    for path in folder.rglob("*"):
        sync_file(path)
    sync_folder(folder)
