"""Which slides are measured how, point by point, and the ratios out of them. Knows no flags."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.embedded import EmbeddedTriton
from serving.entry import entry_of

from ..null_triton import NULL_MODEL, null_server
from ..repeated_slide import write_repeated
from ..slide_cost import CostConfig, measure_throughput
from .errors import BenchError
from .results import Point, Results
from .slide_cache import drop_pages, load_pages
from .slide_fit import LineFit, fit_line
from .slide_instances import measure_instances, model_mpp
from .slide_runs import SlideRun, measure_run
from .slide_scaling import POINT, instance_ratios
from .slide_served import measure_beside

_MOST_PX = 10_000  # through a network: a larger slide says no more


@dataclass(frozen=True)
class SlidePlan:
    """What to measure.

    Attributes:
        slides: each cold and warm, and against the engine.
        grow_px: sides of generated slides, through a model that answers at once.
        overlaps, counts: the same with overlap, and with that many slides, on a slide of the first side.
        instances: of the model's network in the server, on a slide of the greatest side up to 10,000 at the model's scale.
        folder: gets the generated slides while they are measured.
    """

    slides: tuple[Path, ...]
    model: str
    repository: Path
    rounds: int
    overlap: float
    batch: int | None
    grow_px: tuple[int, ...]
    overlaps: tuple[float, ...]
    counts: tuple[int, ...]
    instances: tuple[int, ...]
    folder: Path


def run_plan(plan: SlidePlan, results: Results, say: Callable[[Point], None]) -> dict[str, float | None]:
    """Measure what the file does not have yet; the ratios.

    Raises:
        ClientError, ServingError: a slide, or the server.
    """
    for slide in plan.slides:
        _measure_served(plan, slide, results, say)
        say(results.measure(f"{slide.name} against the engine", lambda slide=slide: against_engine(plan, slide)))  # type: ignore[misc]
    with null_server() as address:
        _measure_growth(plan, address, results, say)
        _measure_overlap(plan, address, results, say)
        _measure_counts(plan, address, results, say)
    _measure_instances(plan, results, say)
    return ratios_of(results.points)


# ---- real slides, through Triton


def _measure_served(plan: SlidePlan, slide: Path, results: Results, say: Callable[[Point], None]) -> None:
    """Cold and warm by turns, each in a client of its own beside one server."""
    wanted = [f"{slide.name} {cache} {number}" for number in range(plan.rounds) for cache in ("cold", "warm")]
    if all(name in results.points for name in wanted):
        return
    entry = entry_of(plan.model)
    with EmbeddedTriton(plan.repository, [entry]) as server:
        run = SlideRun((slide,), entry, server.address, plan.repository, plan.overlap, plan.batch)
        measure_run(run)  # it warms up the server
        for name in wanted:
            say(results.measure(name, lambda name=name: _through(server, run, name.split()[-2])))  # type: ignore[misc]


def _through(server: EmbeddedTriton, run: SlideRun, cache: str) -> dict[str, Any]:
    (slide,) = run.slides
    kept = drop_pages(slide) if cache == "cold" else None
    if cache == "warm":
        load_pages(slide)
    return {"cache": cache, "pages_kept": kept, **measure_beside(server, run)}


def against_engine(plan: SlidePlan, slide: Path) -> dict[str, Any]:
    """The slide through Triton, its tiles from memory through Triton ("tiles") and through the engine in this process ("local"), by turns."""
    config = CostConfig(model=plan.model, repository=plan.repository, repeats=plan.rounds, batch=plan.batch, overlap=plan.overlap)
    with tempfile.TemporaryDirectory() as folder:  # it refuses masks that are there
        return measure_throughput(slide, config, Path(folder))


# ---- generated slides, through a model that answers at once


def _measure_growth(plan: SlidePlan, address: str, results: Results, say: Callable[[Point], None]) -> None:
    for side_px in plan.grow_px:
        say(results.measure(f"grow {side_px}", lambda side_px=side_px: _generated(plan, address, side_px, plan.overlap, 1)))  # type: ignore[misc]


def _measure_overlap(plan: SlidePlan, address: str, results: Results, say: Callable[[Point], None]) -> None:
    for overlap in plan.overlaps:
        say(results.measure(f"overlap {overlap:g}", lambda overlap=overlap: _generated(plan, address, plan.grow_px[0], overlap, 1)))  # type: ignore[misc]


def _measure_counts(plan: SlidePlan, address: str, results: Results, say: Callable[[Point], None]) -> None:
    for count in plan.counts:
        say(results.measure(f"slides {count}", lambda count=count: _generated(plan, address, plan.grow_px[0], plan.overlap, count)))  # type: ignore[misc]


def _generated(plan: SlidePlan, address: str, side_px: int, overlap: float, count: int) -> dict[str, Any]:
    """Of the rounds, the run with the median seconds."""
    with _grown(plan.folder, side_px) as slide:
        run = SlideRun((slide,) * count, NULL_MODEL, address, overlap=overlap, batch=plan.batch)
        runs = sorted((measure_run(run) for _ in range(plan.rounds)), key=lambda figures: float(figures["seconds"]))
    return {"side_px": side_px, "overlap": overlap, "range_s": [runs[0]["seconds"], runs[-1]["seconds"]], **runs[len(runs) // 2]}


@contextmanager
def _grown(folder: Path, side_px: int, mpp: float = 0.5) -> Iterator[Path]:
    """A generated slide, gone after the block."""
    folder.mkdir(parents=True, exist_ok=True)
    slide = folder / f"grown-{side_px}.tiff"
    write_repeated(slide, side_px, side_px, mpp)
    try:
        yield slide
    finally:
        slide.unlink()


# ---- a generated slide, through the embedded Triton with more instances


def _measure_instances(plan: SlidePlan, results: Results, say: Callable[[Point], None]) -> None:
    """One server for each count."""
    entry = entry_of(plan.model)
    side_px = max((side for side in plan.grow_px if side <= _MOST_PX), default=plan.grow_px[0])

    def measure(count: int) -> dict[str, Any]:
        with _grown(plan.folder, side_px, model_mpp(plan.repository, entry)) as slide:
            run = SlideRun((slide,), entry, "", plan.repository, plan.overlap, plan.batch)
            return {"side_px": side_px, **measure_instances(run, count, plan.rounds)}

    for count in plan.instances:
        say(results.measure(f"{POINT}{count}", lambda count=count: measure(count)))  # type: ignore[misc]


# ---- what they say


def growth_of(points: Mapping[str, Mapping[str, Any]], figure: str) -> LineFit | None:
    """The line through the generated slides; None with fewer than three of them.

    Args:
        figure: "seconds" or "cpu_s".
    """
    grown = [point for name, point in points.items() if name.startswith("grow ")]
    try:
        return fit_line([point["tissue_tiles"] for point in grown], [point[figure] for point in grown])
    except BenchError:
        return None


def ratios_of(points: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """What the run is about; None = not measured."""
    found: dict[str, float | None] = {}
    for name, figure in (("seconds", "seconds"), ("cpu", "cpu_s")):
        line = growth_of(points, figure)
        found[f"growth_{name}_residual"] = None if line is None else round(line.residual, 4)
        found[f"growth_{name}_fixed"] = None if line is None else round(line.fixed, 4)
        found[f"growth_{name}_per_1000_tiles"] = None if line is None else round(line.each * 1e3, 4)
    against = [point for name, point in points.items() if name.endswith(" against the engine")]
    for name, key in (("served_over_memory", "segment_of_tiles"), ("served_over_engine", "segment_of_local")):
        found[name] = _median([point[key]["median"] for point in against])
    cold, warm = ([float(point["seconds"]) for point in points.values() if point.get("cache") == cache] for cache in ("cold", "warm"))
    found["cold_over_warm"] = round(statistics.median(cold) / statistics.median(warm), 4) if cold and warm else None
    return found | instance_ratios(points)


def _median(values: Sequence[float]) -> float | None:
    return round(statistics.median(values), 4) if values else None
