"""`histoserve export --check`: the parity gate again, on a release that is published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console

from training.checkpoint import Checkpoint, load

from .errors import ParityError, PublishError
from .figures import require_parity
from .listing import find_releases
from .parity_report import report_folder, write_parity_report
from .parity_table import parity_table
from .provenance import sha256
from .published import Published, measure_published, read_published
from .repository import Release
from .tiles import parity_tiles

_CONSEQUENCE = "The release is as it was: export again, or roll back with histoserve export --rollback"


@dataclass(frozen=True)
class CheckConfig:
    """Run the parity gate again on a published release: files, rules, torch or ONNX Runtime against every engine, and the canary."""

    model: tyro.conf.Positional[str]
    """NAME (what its entries point to), an entry such as NAME_segment, or a release such as NAME_r2."""
    repository: Path = Path("model_repository")
    """Model repository that holds it."""
    tiles: Path | None = None
    """Folder of at least 8 images of the task, at its scale. The task demo generates its own."""
    checkpoint: Path | None = None
    """What the release was exported from; without it ONNX Runtime, each tile alone, is the yardstick."""
    report: Path = Path(".")
    """Folder that gets parity-failed-MODEL with the worst tiles where the gate fails."""


def check(config: CheckConfig, console: Console) -> None:
    """Measure, show and judge.

    Raises:
        ParityError: a figure is outside its limit; the report is written.
        PublishError: there is no such release, or a file of it has changed.
    """
    for release, kind in find_releases(config.repository, config.model):
        published = read_published(config.repository, release, kind)
        checkpoint = _load(config.checkpoint, release)
        _check_kind(config, published, checkpoint, console)


def _check_kind(config: CheckConfig, published: Published, checkpoint: Checkpoint | None, console: Console) -> None:
    contract = published.contract
    reports = measure_published(published, parity_tiles(contract.task, config.tiles), checkpoint)
    console.print(parity_table(contract.release, reports))
    try:
        require_parity(reports, _CONSEQUENCE)
    except ParityError as error:
        folder = report_folder(config.report, contract.release)
        page = write_parity_report(folder, contract.release, str(error), reports, contract.task)
        raise ParityError(f"{error}. Report: {page}", reports) from error
    console.print(f"{contract.release} keeps parity with {reports[0].reference}", soft_wrap=True)


def _load(path: Path | None, release: Release) -> Checkpoint | None:
    """The checkpoint, if it is the one behind the release."""
    if path is None:
        return None
    checkpoint = load(path)
    if sha256(path) != release.checkpoint_sha256:
        raise PublishError(
            f"{path}: expected the checkpoint that {release.prefix!r} was exported from (SHA-256 {release.checkpoint_sha256}), "
            f"got {sha256(path)}: give that one, or none"
        )
    return checkpoint


def main(argv: Sequence[str]) -> int:
    """Check; returns the exit code."""
    check(tyro.cli(CheckConfig, prog="histoserve export --check", args=list(argv)), Console())
    return 0
