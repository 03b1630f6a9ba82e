"""One slide through a model into its mask, overlay and summary. The order of things; each step lives in its own module."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.contract import TissueTask

from .cell_outputs import CellOutputs, probability_store
from .errors import OutputError
from .fingerprint import Fingerprint, take_fingerprint
from .frame import Frame, choose_frame, slide_mpp
from .journal import Journal
from .lock import lock_store
from .omezarr import STRIP_PX, LabelWriter, read_notes
from .outputs import OutputOptions, Selection, select_cells, write_outputs
from .overlay import draw_overlay, save_overlay
from .pipeline import LabelStrips, Plan, Progress, TileModel
from .row_reader import RowReader
from .slide import Slide, open_slide
from .summary import SlideSummary, replace_file, versions, write_summary
from .tally import Tally
from .thumbnail import read_thumbnail
from .tiling import make_grid, tiles_with_tissue
from .unfinished import discard_unfinished, unfinished_files

DEFAULT_BATCH = 16  # on a CPU as fast per tile as 64, for less of the client's own time and less padding at a slide's end
_BATCHES_AHEAD = 2  # before and behind the sender: enough that neither waits for the other, little memory


class SlideModel(TileModel, Protocol):
    """A model that slides are sent to: `ServedModel` or `LocalModel`."""

    @property
    def model(self) -> str:
        """The callers' entry."""

    @property
    def engine(self) -> str:
        """What computes, without its address: part of the fingerprint."""

    def give_up(self) -> None:
        """No longer wait for answers that do not come; from any thread."""


@dataclass(frozen=True)
class SegmentOptions:
    """How a slide is cut and sent.

    Attributes:
        mpp: micrometers per level-0 pixel; None = what the slide says.
        overlap: share of a tile's side, 0…0.75.
        batch: tiles per request, at most what the model takes; None = 16 or as many as it takes.
        in_flight: requests on the way at a time.
        overwrite: replace a mask that is there.
        skip_existing: leave a mask alone that is there under the same fingerprint.
        fresh: begin anew where an interrupted run could be continued.
        outputs: what else to make of a slide, and what of it.
    """

    mpp: float | None = None
    overlap: float = 0.125
    batch: int | None = None
    in_flight: int = 4
    overwrite: bool = False
    skip_existing: bool = False
    fresh: bool = False
    outputs: OutputOptions = field(default_factory=OutputOptions)


@dataclass(frozen=True)
class _Job:
    """A slide that is open, and what is to be done to it."""

    slide: Slide
    frame: Frame
    plan: Plan
    selection: Selection
    fingerprint: Fingerprint
    store: Path


def check_slide(path: Path, mpp: float | None) -> None:
    """Whether a slide can be segmented at all; cheap, before a server is started for it.

    Raises:
        ClientError: it cannot be opened, or its scale is missing or absurd.
    """
    with open_slide(path) as slide:
        slide_mpp(slide, mpp)


def segment_slide(
    path: Path, model: SlideModel, output: Path, options: SegmentOptions, progress: Progress, turn: threading.Lock | None = None
) -> SlideSummary | None:
    """Segment a slide; its files in `output` appear when they are whole, the mask last. None: the mask is there, and may be skipped.

    Interrupted in whatever way, the same call goes on after the last finished strip of rows.

    Args:
        progress: called with tiles done and tiles in all; may raise to stop.
        turn: held while tiles are sent, by one slide at a time; None = there is no other.

    Raises:
        ClientError: the slide, its scale, the server or the output.
    """
    store = output / f"{path.stem}.ome.zarr"
    _refuse_existing(store, options)
    with lock_store(store), _no_empty_remains(store), open_slide(path) as slide:
        clock = _Clock()
        job = prepare(slide, model, store, options)
        if store.exists() and options.skip_existing and _is_finished(job, options):
            return None
        clock.lap("tissue")
        writer, tally, cell_outputs, kept_tiles = _write_strips(job, model, options, progress, turn)
        clock.lap("segment")
        rgb = read_thumbnail(slide, job.frame, tally.factor)
        writer.finish(rgb, tally.factor)
        areas_mm2 = _areas_mm2(model.contract.task, tally.counts, job.frame)
        overlay = draw_overlay(rgb, tally.thumbnail, model.contract.task)
        replace_file(
            _overlay_path(store),
            lambda partial: save_overlay(partial, overlay, model.contract.task, areas_mm2, job.frame.mpp_x * tally.factor),
        )
        # What else is derived from a finished mask is made here, from the whole store `writer.unfinished`: a store that has its name has all.
        made = cell_outputs.finish(rgb)
        made |= write_outputs(store, writer.unfinished, slide, job.frame, model.contract, job.selection, options.outputs)
        clock.lap("finish")
        summary = _summarize(job, model, kept_tiles, areas_mm2, clock.seconds, made)
        write_summary(output / f"{path.stem}.summary.json", summary)
        writer.publish()
        Journal(store).discard()
    return summary


def prepare(slide: Slide, model: SlideModel, store: Path, options: SegmentOptions) -> _Job:
    """Choose the pixels, find the tissue, plan the tiles. Reads a thumbnail alone."""
    contract = model.contract
    mpp_l0 = slide_mpp(slide, options.mpp)
    frame = choose_frame(slide, mpp_l0, contract.task.mpp)
    grid = make_grid(frame.width_m, frame.height_m, contract.task.tile_px, contract.cell_px, options.overlap)
    selection = select_cells(slide, mpp_l0, frame, grid, contract, options.outputs)
    places = list(tiles_with_tissue(grid, selection.cells))
    corners_m = ((grid.origin_c(column) * grid.cell_px, grid.origin_c(row) * grid.cell_px) for row, column in places)
    plan = Plan(
        read_tile=RowReader(slide, frame, contract.task.tile_px, corners_m),
        width_m=frame.width_m,
        height_m=frame.height_m,
        grid=grid,
        places=places,
        batch=min(options.batch or DEFAULT_BATCH, model.max_batch),
        in_flight=options.in_flight,
        strip_px=STRIP_PX,
        batches_ahead=_BATCHES_AHEAD,
        pad=True,
    )
    fingerprint = take_fingerprint(contract, model.engine, slide.path, slide.reader, frame, grid, selection.cells)
    parts = {**fingerprint.parts, **options.outputs.parts(selection)}
    return _Job(slide, frame, plan, selection, Fingerprint(parts), store)


def _write_strips(
    job: _Job, model: SlideModel, options: SegmentOptions, progress: Progress, turn: threading.Lock | None
) -> tuple[LabelWriter, Tally, CellOutputs, int]:
    """All strips on disk, those that an interrupted run finished and the others; and how many tiles the former spared."""
    journal, frame, task = Journal(job.store), job.frame, model.contract.task
    if options.fresh:
        journal.discard()
    saved = journal.load(job.fingerprint, unfinished_files(job.store))
    if saved is None:
        journal.discard()
        discard_unfinished(job.store)
    notes = {
        "slide": job.slide.path.name,
        "release": model.contract.release,
        "overlap": options.overlap,
        "versions": versions(),
        "fingerprint": dict(job.fingerprint.parts),
    }
    shape, mpp_m = (frame.height_m, frame.width_m), (frame.mpp_x, frame.mpp_y)
    writer = LabelWriter(job.store, task, shape, mpp_m, notes, None if saved is None else saved.files)
    tally = Tally(frame, len(task.classes))
    if saved is not None:
        tally.restore(saved.arrays)
    start = None if saved is None else saved.arrays
    cells = CellOutputs(job.store, model.contract, job.plan.grid, frame, tally.thumbnail.shape, tally.factor, options.outputs, notes, start)
    strips = LabelStrips(job.plan, model, progress, start, turn, cells.add)
    for y_m, strip in strips:
        labels = job.selection.keep(y_m, strip)
        writer.write(y_m, labels)
        tally.add(y_m, labels)
        journal.save(job.fingerprint, strips.state() | tally.state() | cells.state(), writer.files)
        del strip, labels  # not beside the next one
    return writer, tally, cells, strips.kept_tiles


@contextmanager
def _no_empty_remains(store: Path) -> Iterator[None]:
    """After an error an unfinished store is worth keeping only where a strip of it is done."""
    try:
        yield
    except BaseException:
        if not Journal(store).path.exists():
            discard_unfinished(store)
            discard_unfinished(probability_store(store))
        raise


def _refuse_existing(store: Path, options: SegmentOptions) -> None:
    if store.exists() and not (options.overwrite or options.skip_existing):
        raise OutputError(f"{store}: expected no mask there yet, found one: give --overwrite to replace it, --skip-existing to leave it")


def _is_finished(job: _Job, options: SegmentOptions) -> bool:
    """Whether the mask that is there is the one that would be written.

    Raises:
        OutputError: it is another, and may not be replaced.
    """
    changes = job.fingerprint.changes(read_notes(job.store).get("fingerprint", {}))
    if changes and not options.overwrite:
        raise OutputError(f"{job.store}: expected the mask of this very run, since then changed: {', '.join(changes)}: give --overwrite")
    return not changes


def _overlay_path(store: Path) -> Path:
    return store.with_name(f"{store.name.removesuffix('.ome.zarr')}.overlay.png")


def _summarize(
    job: _Job, model: SlideModel, kept_tiles: int, areas_mm2: dict[str, float], seconds: dict[str, float], outputs: Mapping[str, Any]
) -> SlideSummary:
    slide, frame, grid = job.slide, job.frame, job.plan.grid
    return SlideSummary(
        slide=slide.path.name,
        mask=job.store.name,
        overlay=_overlay_path(job.store).name,
        model=model.model,
        release=model.contract.release,
        mpp=(frame.mpp_x, frame.mpp_y),
        size_px=(frame.width_m, frame.height_m),
        level=frame.level,
        tiles=grid.rows * grid.columns,
        tissue_tiles=len(job.plan.places),
        kept_tiles=kept_tiles,
        reader=slide.reader,
        reader_reason=slide.reader_reason,
        icc_ignored=slide.icc_ignored,
        areas_mm2=areas_mm2,
        seconds=seconds,
        versions=versions(),
        outputs=outputs,
    )


def _areas_mm2(task: TissueTask, counts: npt.NDArray[np.int64], frame: Frame) -> dict[str, float]:
    pixel_mm2 = frame.mpp_x * frame.mpp_y / 1e6
    return {tissue.name: round(float(count) * pixel_mm2, 6) for tissue, count in zip(task.classes, counts[1:], strict=True)}


class _Clock:
    """Wall seconds between laps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = time.monotonic()

    def lap(self, phase: str) -> None:
        now_s = time.monotonic()
        self.seconds[phase] = round(now_s - self._last_s, 3)
        self._last_s = now_s
