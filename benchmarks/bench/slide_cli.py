"""`histoserve bench slide`: what whole slides cost, by phase, and how that grows. Knows flags and words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from .command_line import command_of, settings_of
from .results import Point, Results
from .slide_instances import usual_counts
from .slide_plan import SlidePlan, growth_of, run_plan
from .slide_scaling import scaling_line

KIND = "bench-slide"
LARGE_PX = (5_000, 10_000, 20_000, 40_000)
_FIXED_GOAL_S, _RESIDUAL_GOAL = 2.0, 0.05


@dataclass(frozen=True)
class Flags:
    """Seconds and CPU-seconds of whole slides by phase, cold and warm, against the engine alone; growth with size, overlap, number of slides and instances.

    Real slides go through the embedded Triton; growth is measured on generated slides against a model that answers at once, so that what grows is the
    client's own cost, and growth with instances against the model itself. Interrupted, the same command goes on.
    """

    slides: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SLIDE …")] = ()
    """Slides to measure; without any, growth alone."""
    model: str = "default"
    """Of the real slides, and whose network gets more instances."""
    repository: Path = Path("model_repository")
    """Where it is."""
    output: Path = Path("out/bench-slide.json")
    """Result file."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure anew, whatever the result file holds."""
    rounds: int = 3
    """Turns; medians are told."""
    overlap: float = 0.125
    """As of `histoserve segment`."""
    batch: int | None = None
    """As of `histoserve segment`."""
    grow_px: tuple[int, ...] = (3_072, 4_096, 6_144, 8_192)
    """Sides of the generated slides."""
    large: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Generated slides of 5,000 … 40,000 pixels instead: a file of 0.7 GB, minutes each."""
    overlaps: tuple[float, ...] = (0.0, 0.25, 0.5)
    """Also measured, on a slide of the first side."""
    counts: tuple[int, ...] = (2, 4)
    """Also measured: so many slides one after the other."""
    instances: tuple[int, ...] = usual_counts(len(os.sched_getaffinity(0)))
    """Also measured: the model on the greatest slide up to 10,000 pixels, with so many instances of its network in the server, each a process."""
    folder: Path = Path("out/bench-slide")
    """Gets the generated slides while they are measured."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        if self.rounds < 1:
            raise ValueError(f"--rounds {self.rounds}: expected at least 1")
        if not self.grow_px:
            raise ValueError("--grow-px: expected at least one side")
        if not all(count >= 1 for count in self.instances):
            raise ValueError("--instances: expected numbers of at least 1")


def run(flags: Flags) -> None:
    """Measure, write, print.

    Raises:
        ClientError, ServingError: a slide, or the server.
    """
    console = Console(highlight=False, soft_wrap=True)
    settings = settings_of(flags) | {"slides": [slide.name for slide in flags.slides]}
    results = Results.begin(flags.output, KIND, command_of("slide", flags, "slides"), settings, fresh=flags.fresh)
    plan = SlidePlan(
        slides=flags.slides,
        model=flags.model,
        repository=flags.repository,
        rounds=flags.rounds,
        overlap=flags.overlap,
        batch=flags.batch,
        grow_px=LARGE_PX if flags.large else flags.grow_px,
        overlaps=flags.overlaps,
        counts=flags.counts,
        instances=flags.instances,
        folder=flags.folder,
    )
    results.finish(run_plan(plan, results, lambda point: console.print(as_line(point))))
    for line in (*fit_lines(results.points), *([scaling_line(results.points)] if flags.instances else [])):
        console.print(line)
    for name, value in results.content["ratios"].items():
        console.print(f"{name}: {'not measured' if value is None else f'{value:g}'}")
    console.print(f"{flags.output}: written")


def as_line(point: Point) -> str:
    """One point, for the terminal."""
    if "skipped" in point:
        return f"{point['name']}: skipped: {point['skipped']}"
    if "segment_of_local" in point:
        return f"{point['name']}: {point['tiles_per_s']} tiles/s, of the engine {point['segment_of_local']['median']:.3f}"
    most = ", ".join(f"{name} {cpu_s:.2f}" for name, cpu_s in list(point["phases"].items())[:4])
    per_tile = ", ".join(f"{name} {cpu_ms:.2f}" for name, cpu_ms in point.get("cpu_ms_per_tile", {}).items())
    most += f"; CPU-ms per tile: {per_tile}" if per_tile else ""
    return (
        f"{point['name']}: {point['seconds']:.2f} s, {point['tissue_tiles']} tiles, {point['tiles_per_s']:.1f} tiles/s, {point['mm2_per_s']:.2f} mm²/s, "
        f"{point['slides_per_h']:.0f} slides/h, {point['peak_mb']:.0f} MB; CPU-s: {most}"
    )


def fit_lines(points: dict[str, Point]) -> list[str]:
    """The growth in words, with its goals: linear within 5 %, at most 2 s per slide."""
    lines = []
    for figure, name in (("seconds", "seconds"), ("cpu_s", "CPU-seconds")):
        line = growth_of(points, figure)
        if line is None:
            lines.append(f"{name}: no line, fewer than three sizes")
            continue
        straight = "met" if line.residual <= _RESIDUAL_GOAL else "missed"
        small = "met" if line.fixed <= _FIXED_GOAL_S else "missed"
        lines.append(
            f"{name} = {line.fixed:.3f} + {line.each * 1e3:.3f} per 1,000 tiles; farthest point {line.residual:.1%} (goal 5 %: {straight}), "
            f"fixed cost goal 2 s: {small}"
        )
    return lines
