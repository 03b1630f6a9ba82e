"""Which command, versions and checkpoint made a release. Plain values; no path of the exporting machine gets into it."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from training.checkpoint import Checkpoint

# What can change a graph or its figures. Those that are not installed had no part in it.
_PACKAGES = (
    *("histoserve", "torch", "timm", "transformers", "segmentation-models-pytorch"),
    *("onnx", "onnxscript", "onnxruntime", "openvino", "numpy", "scipy"),
)


def provenance(path: Path, checkpoint: Checkpoint, arguments: Sequence[str], tiles: str) -> dict[str, Any]:
    """What `release.json` says about the origin.

    Args:
        path: the checkpoint's file.
        arguments: the command's arguments.
        tiles: which tiles parity was measured on, in words.
    """
    return {
        "checkpoint": {"file": path.name, "sha256": sha256(path)},
        "training": _portable(checkpoint.provenance),
        "command": ["histoserve", "export", *(_portable(argument) for argument in arguments)],
        "parity_tiles": tiles,
        "versions": {"python": platform.python_version(), **_versions()},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def sha256(path: Path) -> str:
    """The digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _portable(value: Any) -> Any:
    """Absolute paths, wherever they stand, shrink to their last part: releases travel into images and repositories."""
    if isinstance(value, dict):
        return {key: _portable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(entry) for entry in value]
    if not isinstance(value, str):
        return value
    mark = "@" if value.startswith("@") else ""  # of a recipe
    path = Path(value.removeprefix(mark))
    return mark + path.name if path.is_absolute() else value
