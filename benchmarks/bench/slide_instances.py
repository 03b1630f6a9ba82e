"""What more instances of the network in the server give a slide: `instance_group count` changed in a copy of the repository. Knows no flags."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving.check import check_repository
from serving.embedded import EmbeddedTriton
from serving.errors import InstallationError
from serving.modelconfig import FILE_NAME, EnsembleConfig, ModelConfig, contract_of, write_config

from .errors import BenchError
from .slide_runs import SlideRun, measure_run
from .slide_served import measure_beside

_LEAST_COUNTS = 3  # of a line


def usual_counts(cores: int) -> tuple[int, ...]:
    """1, 2, 4 … and the number of cores; more than the cores where that would be fewer than three, of which there is no line."""
    counts = [*(2**power for power in range(cores.bit_length()) if 2**power < cores), cores]
    while len(counts) < _LEAST_COUNTS:
        counts.append(2 * counts[-1])
    return tuple(counts)


def model_mpp(repository: Path, entry: str) -> float:
    """Of the model, µm per pixel: what a generated slide must have so that nothing is resampled.

    Raises:
        ServingError: the repository does not have it.
    """
    return contract_of(check_repository(repository, [entry])[entry]).task.mpp


def measure_instances(run: SlideRun, count: int, rounds: int) -> dict[str, Any]:
    """The run's slides through a Triton of its own whose network has so many instances: of the rounds, the one with the median seconds.

    One more round before them warms the server up. CPU per tile is told of both sides; `sent_tiles_per_s` is while tiles are on the way, without what
    a slide costs once.

    Raises:
        ClientError, ServingError: a slide, or the server. That it has no room for more instances than one is told as "skipped".
    """
    try:
        with repository_with(run.repository, run.model, count) as repository, EmbeddedTriton(repository, [run.model]) as server:
            served = dataclasses.replace(run, address=server.address, repository=repository)
            measure_run(served)
            runs = sorted((measure_beside(server, served) for _ in range(rounds)), key=lambda figures: float(figures["seconds"]))
    except InstallationError as error:
        if count == 1:
            raise
        return {"instances": count, "skipped": str(error)}
    figures = runs[len(runs) // 2]
    per_tile = {
        name: round(1e3 * figures[f"{key}cpu_s"] / figures["tissue_tiles"], 3) for name, key in (("client", ""), ("server", "server_"))
    }
    sent_per_s = round(figures["tissue_tiles"] / figures["laps"]["segment"], 2)
    return {
        "instances": count,
        "sent_tiles_per_s": sent_per_s,
        "cpu_ms_per_tile": per_tile,
        "range_s": [runs[0]["seconds"], runs[-1]["seconds"]],
        **figures,
    }


@contextmanager
def repository_with(repository: Path, entry: str, count: int) -> Iterator[Path]:
    """A copy of what the entry needs, gone after the block, in which the models that slides stream to have `count` instances.

    Files are hard links, copies where it lies on another file system; a changed configuration is a file of its own.

    Raises:
        BenchError: it has no such models of its own.
        ServingError: the repository does not have the entry.
    """
    configs = check_repository(repository, [entry])
    slide_model = configs[contract_of(configs[entry]).slide_model]
    steps = [configs[step.model] for step in slide_model.steps] if isinstance(slide_model, EnsembleConfig) else []
    changed = [dataclasses.replace(step, instance_count=count) for step in steps if isinstance(step, ModelConfig)]
    if not changed:
        raise BenchError(f"model {entry!r}: expected an ensemble for slides whose steps have instances, got none: name another model")
    with tempfile.TemporaryDirectory(prefix="histoserve-instances-") as folder:
        for name in configs:
            shutil.copytree(repository / name, Path(folder) / name, copy_function=_link)
        for config in changed:
            (Path(folder) / config.name / FILE_NAME).unlink()  # the link; else the original would be written to
            write_config(Path(folder) / config.name, config)
        yield Path(folder)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        shutil.copy2(source, target)
