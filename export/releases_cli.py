"""`histoserve export --list`, `--remove` and `--rollback`: the releases of a model repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from serving.command import FAILED

from .layout import entry_name
from .listing import Listed, list_releases, parse_release, require_repository
from .removal import remove
from .repository import roll_back

_REPOSITORY = Path("model_repository")


@dataclass(frozen=True)
class ListConfig:
    """List the releases of a repository and verify the SHA-256 of their files; exits with 1 where one is damaged."""

    repository: Path = _REPOSITORY
    """Model repository."""
    name: str | None = None
    """Only the releases of this model."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class RemoveConfig:
    """Delete a release that no entry points to. Servers that are running keep what they have loaded; its number is not given again."""

    release: tyro.conf.Positional[str]
    """NAME_rN, or rN together with --name."""
    repository: Path = _REPOSITORY
    """Model repository."""
    name: str | None = None
    """Name of the model, where the release is given as rN."""


@dataclass(frozen=True)
class RollbackConfig:
    """Point the callers' entries to a release that is already there; its files are verified first."""

    release: tyro.conf.Positional[str]
    """NAME_rN, or rN together with --name."""
    repository: Path = _REPOSITORY
    """Model repository."""
    name: str | None = None
    """Name of the model, where the release is given as rN."""


def list_main(argv: Sequence[str]) -> int:
    """List; 1 where a release is damaged."""
    config = tyro.cli(ListConfig, prog="histoserve export --list", args=list(argv))
    listed = list_releases(config.repository, config.name)
    if config.json:
        print(json.dumps([_values(entry) for entry in listed], indent=2))
    else:
        Console().print(_table(config.repository, listed))
    return FAILED if any(entry.state == "damaged" for entry in listed) else 0


def remove_main(argv: Sequence[str]) -> int:
    """Remove a release."""
    config = tyro.cli(RemoveConfig, prog="histoserve export --remove", args=list(argv))
    name, number = parse_release(config.release, config.name)
    require_repository(config.repository)
    models = remove(config.repository, name, number)
    print(f"removed {name}_r{number}: {len(models)} models")
    return 0


def rollback_main(argv: Sequence[str]) -> int:
    """Roll back to a release."""
    config = tyro.cli(RollbackConfig, prog="histoserve export --rollback", args=list(argv))
    name, number = parse_release(config.release, config.name)
    require_repository(config.repository)
    release = roll_back(config.repository, name, number)
    for kind in release.kinds:
        print(f"{entry_name(name, kind)} now answers as {release.frozen(kind)}")
    return 0


def _table(repository: Path, listed: Sequence[Listed]) -> Table:
    table = Table(title=str(repository))
    for heading in ("release", "state", "callers get it as", "precision", "MiB", "created", "checkpoint"):
        table.add_column(heading, justify="right" if heading == "MiB" else "left", overflow="fold")
    for entry in listed:
        values = _values(entry)
        precision = ", ".join(f"{kind} {precision}" for kind, precision in values["precision"].items())
        state = entry.state if entry.state == "whole" else f"{entry.state}: {'; '.join(entry.faults)}"
        table.add_row(
            entry.prefix,
            state,
            ", ".join(values["current"]) or "-",
            precision or "-",
            f"{entry.size_bytes / 2**20:.1f}",
            values["created"] or "-",
            (values["checkpoint_sha256"] or "-")[:12],
            style="bold red" if entry.state == "damaged" else None,
        )
    return table


def _values(entry: Listed) -> dict[str, Any]:
    """Plain values."""
    release = entry.release
    return {
        "release": entry.prefix,
        "state": entry.state,
        "faults": list(entry.faults),
        "current": [entry_name(entry.prefix.rpartition("_r")[0], kind) for kind in entry.current],
        "precision": {} if release is None else dict(release.precisions),
        "bytes": entry.size_bytes,
        "created": None if release is None else release.created,
        "checkpoint_sha256": None if release is None else release.checkpoint_sha256,
    }
