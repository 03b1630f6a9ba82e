"""`histoserve bench limits`: flags, result file and lines for the terminal. Knows no measurement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from serving.entry import entry_of

from .command_line import command_of, settings_of
from .limits_plan import Limits, measure_limits
from .results import Point, Results

KIND = "bench-limits"
_PACKAGES = ("onnx", "simplejpeg")


@dataclass(frozen=True)
class Flags:
    """Measure what this machine could do at best (matrix products, memory, JPEG, gRPC) and the share of it that a model reaches.

    Run again with the same flags, it goes on where it was interrupted.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")] = "default"
    """A model's name or an entry of it."""
    repository: Path = Path("model_repository")
    """Model repository that holds it."""
    output: Path = Path("out/bench-limits.json")
    """Result file."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure anew, whatever the result file holds."""
    batch: int = 16
    """Tiles per batch of engine and server."""
    native_tile_px: int = 256
    """Side of the JPEG tiles that are decoded."""
    seconds: float = 3.0
    """Of each measurement."""
    turns: int = 3
    """Engine and server alternate so often; medians are told."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        if min(self.batch, self.native_tile_px, self.turns) < 1 or self.seconds <= 0:
            raise ValueError("--batch, --native-tile-px, --turns: expected at least 1; --seconds: more than 0")


def run(flags: Flags) -> None:
    """Measure and print.

    Raises:
        BenchError, ServingError, ClientError: what cannot be measured, and why.
    """
    console = Console(highlight=False, soft_wrap=True)
    results = Results.begin(flags.output, KIND, command_of("limits", flags), settings_of(flags), packages=_PACKAGES, fresh=flags.fresh)
    limits = Limits(entry_of(flags.model), flags.repository, flags.batch, flags.native_tile_px, flags.seconds, flags.turns)
    measure_limits(limits, results, lambda point: console.print(as_line(point)))
    for name, value in results.content["ratios"].items():
        console.print(f"{name}: {'not measured' if value is None else f'{value:g}'}")
    console.print(f"{flags.output}: written")


def as_line(point: Point) -> str:
    """One point, for the terminal."""
    told = (f"{name} {value}" for name, value in point.items() if name not in ("name", "load_1min"))
    return f"{point['name']:<12}{', '.join(told)}"
