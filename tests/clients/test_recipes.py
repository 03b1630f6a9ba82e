"""What README tells the users of schedulers to type is what the command takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import tyro

from clients.cli import SegmentConfig
from clients.shard import Shard

README = Path(__file__).parents[2] / "clients" / "README.md"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the Slurm array, as README has it."""
    (block,) = [block for block in README.read_text(encoding="utf-8").split("```sh\n") if block.startswith("#!/usr/bin/env bash")]
    path = tmp_path_factory.mktemp("recipe") / "segment.sbatch"
    path.write_text(block.split("```")[0], encoding="utf-8")
    return path


def test_it_is_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False).stderr == ""


def test_task_3_of_an_array_of_100_segments_part_3_of_100(script: Path, tmp_path: Path) -> None:
    (tmp_path / "histoserve").write_text('#!/bin/sh\nfor argument; do echo "$argument"; done\n')
    (tmp_path / "histoserve").chmod(0o755)
    task = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "100"}
    done = subprocess.run(["bash", script, "/my slides", "/masks", "a:1,b:1"], env=task, capture_output=True, text=True, check=True)
    program, *arguments = done.stdout.splitlines()
    assert program == "segment"
    config = tyro.cli(SegmentConfig, args=arguments)
    assert (config.slides, config.output, config.servers, config.part) == (("/my slides",), "/masks", ("a:1", "b:1"), Shard(3, 100))
    assert config.skip_existing


def test_the_array_counts_from_0(script: Path) -> None:
    (array,) = [word for word in script.read_text(encoding="utf-8").split() if word.startswith("--array=")]
    first, last = array.removeprefix("--array=").split("%")[0].split("-")
    assert (first, int(last) > 0) == ("0", True)
