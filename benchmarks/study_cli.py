"""`histoserve study`: run a study and print its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from serving.command import run
from serving.tasks import get_task
from training.errors import TrainingError

from .errors import BenchmarkError
from .study import StudyConfig, run_study
from .study_table import render_table

PROGRAM = "histoserve study"


@dataclass(frozen=True)
class StudyCommand(StudyConfig):
    __doc__ = StudyConfig.__doc__

    main_classes: tuple[str, ...] = ()
    """Classes whose mean IoU leads; none = all of the task."""


def main(argv: Sequence[str]) -> int:
    """Run the study; returns the exit code."""

    def call() -> int:
        config = tyro.cli(StudyCommand, prog=PROGRAM, args=list(argv))
        study = run_study(config)
        table = render_table(study, config.main_classes or get_task(config.task).class_names)
        (config.output / "table.md").write_text(table, encoding="utf-8")
        print(table)
        return 0

    return run(PROGRAM, call, (BenchmarkError, TrainingError))
