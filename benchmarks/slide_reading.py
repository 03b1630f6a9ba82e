"""What reading a slide costs: level 0 from top to bottom, natively and through OpenSlide, in one process by turns.

    python -m benchmarks.slide_reading SLIDE… [--generated-px 6000]

CPU-seconds are those of the process, all threads: what reading takes from everything else, whatever the machine is doing.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import openslide
import tyro

from clients.errors import ClientError
from clients.slide import open_slide
from serving.command import run
from training.errors import TrainingError
from training.slides import write_slide

PROGRAM = "slide_reading"


@dataclass(frozen=True)
class ReadingConfig:
    """Native reading against OpenSlide, megapixels per CPU-second."""

    slides: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Slides to read."""
    generated_px: int = 0
    """Also a generated JPEG slide (4:2:0, quality 90) of this width and three quarters of the height; 0 = none."""
    rows_px: int = 512
    """Height of a read; its width is the slide's."""
    repeats: int = 7
    """Turns; every reader reads the whole of level 0 in each."""
    threads: int | None = None
    """That decode; none = the cores, at most 8."""
    json: Path | None = None
    """Also write the figures here."""


@dataclass(frozen=True)
class Reading:
    """One slide.

    Attributes:
        reader: who read it when asked for native reading, and why.
        mpx_per_cpu_s: median over the turns, by reader: "native" as `open_slide` chooses, "openslide" the same interface through
            OpenSlide, "read_region" OpenSlide alone, whole rows at a time.
        ratio: median over the turns of native / the faster of the two others in that turn.
        ratio_range: the least and the greatest of these.
        wall_s: median seconds, by reader.
    """

    slide: str
    reader: str
    size_px: tuple[int, int]
    mpx_per_cpu_s: dict[str, float]
    ratio: float
    ratio_range: tuple[float, float]
    wall_s: dict[str, float]


def measure(path: Path, config: ReadingConfig) -> Reading:
    """Read a slide by turns.

    Raises:
        ClientError: it cannot be read.
    """
    with open_slide(path) as slide:
        size, reader = (slide.width_l0, slide.height_l0), f"{slide.reader}: {slide.reader_reason}"
    walks: dict[str, Callable[[], None]] = {
        "native": lambda: _walk(path, config, native=True),
        "openslide": lambda: _walk(path, config, native=False),
        "read_region": lambda: _walk_bare(path, config),
    }
    costs = [{name: _cost(walk) for name, walk in walks.items()} for _ in range(config.repeats)]
    mpx = size[0] * size[1] / 1e6
    ratios = [min(turn["openslide"][0], turn["read_region"][0]) / turn["native"][0] for turn in costs]
    return Reading(
        slide=path.name,
        reader=reader,
        size_px=size,
        mpx_per_cpu_s={name: round(mpx / statistics.median(turn[name][0] for turn in costs), 1) for name in walks},
        ratio=round(statistics.median(ratios), 2),
        ratio_range=(round(min(ratios), 2), round(max(ratios), 2)),
        wall_s={name: round(statistics.median(turn[name][1] for turn in costs), 3) for name in walks},
    )


def _walk(path: Path, config: ReadingConfig, native: bool) -> None:
    with open_slide(path, config.threads, native) as slide:
        for top in range(0, slide.height_l0, config.rows_px):
            slide.read(0, 0, top, slide.width_l0, min(config.rows_px, slide.height_l0 - top))


def _walk_bare(path: Path, config: ReadingConfig) -> None:
    with openslide.OpenSlide(str(path)) as slide:
        width, height = slide.dimensions
        for top in range(0, height, config.rows_px):
            rgba = np.asarray(slide.read_region((0, top), 0, (width, min(config.rows_px, height - top))))
            np.ascontiguousarray(rgba[..., :3])


def _cost(walk: Callable[[], None]) -> tuple[float, float]:
    """CPU-seconds and seconds."""
    cpu_s, wall_s = time.process_time(), time.monotonic()
    walk()
    return time.process_time() - cpu_s, time.monotonic() - wall_s


def main(argv: Sequence[str]) -> int:
    """Measure and print; returns the exit code."""

    def call() -> int:
        config = tyro.cli(ReadingConfig, prog=PROGRAM, args=list(argv))
        with tempfile.TemporaryDirectory() as folder:
            slides = list(config.slides)
            if config.generated_px:
                slides.append(Path(folder) / "generated.tiff")
                write_slide(slides[-1], 1, config.generated_px, config.generated_px * 3 // 4)
            readings = [measure(path, config) for path in slides]
        for reading in readings:
            print("\n".join(_lines(reading)))
        if config.json:
            config.json.write_text(json.dumps([asdict(reading) for reading in readings], indent=2) + "\n", encoding="utf-8")
        return 0

    return run(PROGRAM, call, (ClientError, TrainingError))


def _lines(reading: Reading) -> list[str]:
    low, high = reading.ratio_range
    figures = (f"{name} {mpx:.1f} ({reading.wall_s[name]:.2f} s)" for name, mpx in reading.mpx_per_cpu_s.items())
    return [
        f"{reading.slide}  {reading.size_px[0]}×{reading.size_px[1]}  [{reading.reader}]",
        f"  Mpx per CPU-second (seconds in all): {', '.join(figures)}",
        f"  native / the faster other: {reading.ratio:.2f} ({low:.2f}…{high:.2f})",
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
