"""`histoserve patches`: annotated images to a folder of patches."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from serving.command import run
from serving.contract import ContractError

from .cut_patches import CutResult, PatchesConfig, cut_patches
from .datasets.folds import SPLIT_FILE
from .errors import TrainingError


def main(argv: Sequence[str]) -> int:
    """Cut patches; returns the exit code."""

    def call() -> int:
        config = tyro.cli(PatchesConfig, prog="histoserve patches", args=list(argv))
        print(summary(cut_patches(config)))
        return 0

    return run("histoserve patches", call, (TrainingError, ContractError))


def summary(result: CutResult) -> str:
    """What was written and what was left out, in a few lines."""
    lines = [
        f"patches: {result.folder}",
        f"  {result.patches} of {len(result.split.train)} images; "
        + ", ".join(f"{name} on {count}" for name, count in result.per_class.items()),
        f"  left out: {result.without_class} without any class, {result.not_drawn} not drawn",
    ]
    if result.split.test:
        lines.append(f"  images held out for the test: {len(result.split.test)}, named in {SPLIT_FILE}")
    return "\n".join(lines)
