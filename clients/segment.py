"""One slide through a served model into its mask, overlay and summary. The order of things; each step lives in its own module."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.contract import TissueTask

from .frame import Frame, choose_frame, slide_mpp
from .inference import TileClient
from .omezarr import STRIP_PX, LabelWriter
from .overlay import draw_overlay, save_overlay
from .pipeline import Plan, Progress, label_strips
from .row_reader import RowReader
from .slide import Slide, open_slide
from .summary import SlideSummary, replace_file, versions, write_summary
from .thumbnail import LabelThumbnail, read_thumbnail
from .tiling import make_grid, tiles_with_tissue
from .tissue import tissue_mask


@dataclass(frozen=True)
class SegmentOptions:
    """How a slide is cut and sent.

    Attributes:
        mpp: micrometers per level-0 pixel; None = what the slide says.
        overlap: share of a tile's side, 0…0.75.
        batch: tiles per request, at most what the model takes.
        in_flight: requests on the way at a time.
        overwrite: replace a mask that is there.
    """

    mpp: float | None = None
    overlap: float = 0.125
    batch: int = 16
    in_flight: int = 4
    overwrite: bool = False


def check_slide(path: Path, mpp: float | None) -> None:
    """Whether a slide can be segmented at all; cheap, before a server is started for it.

    Raises:
        ClientError: it cannot be opened, or its scale is missing or absurd.
    """
    with open_slide(path) as slide:
        slide_mpp(slide, mpp)


def segment_slide(path: Path, client: TileClient, output: Path, options: SegmentOptions, progress: Progress) -> SlideSummary:
    """Segment a slide; its files in `output` appear when they are whole, the mask last.

    Raises:
        ClientError: the slide, its scale, the server or the output; nothing half-written is left.
    """
    contract = client.contract
    with open_slide(path) as slide:
        clock = _Clock()
        mpp_l0 = slide_mpp(slide, options.mpp)
        frame = choose_frame(slide, mpp_l0, contract.task.mpp)
        notes = {"slide": path.name, "release": contract.release, "overlap": options.overlap, "versions": versions()}
        store = output / f"{path.stem}.ome.zarr"
        shape, mpp_m = (frame.height_m, frame.width_m), (frame.mpp_x, frame.mpp_y)
        with LabelWriter(store, contract.task, shape, mpp_m, notes, options.overwrite) as writer:
            plan = make_plan(slide, mpp_l0, frame, client, options)
            clock.lap("tissue")
            thumbnail = LabelThumbnail(frame)
            counts = np.zeros(len(contract.task.classes) + 1, dtype=np.int64)
            for y_m, labels in label_strips(plan, client, progress):
                writer.write(y_m, labels)
                thumbnail.add(y_m, labels)
                counts += np.bincount(labels.ravel(), minlength=len(counts))
            clock.lap("segment")
            rgb = read_thumbnail(slide, frame, thumbnail.factor)
            areas_mm2 = _areas_mm2(contract.task, counts, frame)
            overlay = draw_overlay(rgb, thumbnail.labels, contract.task)
            overlay_path = output / f"{path.stem}.overlay.png"
            replace_file(overlay_path, lambda partial: save_overlay(partial, overlay, contract.task, areas_mm2))
            writer.finish(rgb, thumbnail.factor)
            clock.lap("finish")
    summary = SlideSummary(
        slide=path.name,
        mask=store.name,
        overlay=overlay_path.name,
        model=client.model,
        release=contract.release,
        mpp=mpp_m,
        size_px=(frame.width_m, frame.height_m),
        level=frame.level,
        tiles=plan.grid.rows * plan.grid.columns,
        tissue_tiles=len(plan.places),
        reader=slide.reader,
        reader_reason=slide.reader_reason,
        icc_ignored=slide.icc_ignored,
        areas_mm2=areas_mm2,
        seconds=clock.seconds,
        versions=versions(),
    )
    write_summary(output / f"{path.stem}.summary.json", summary)
    return summary


def make_plan(slide: Slide, mpp_l0: tuple[float, float], frame: Frame, client: TileClient, options: SegmentOptions) -> Plan:
    """Find the tissue and choose the tiles to send."""
    contract = client.contract
    grid = make_grid(frame.width_m, frame.height_m, contract.task.tile_px, contract.cell_px, options.overlap)
    tissue_c = tissue_mask(slide, mpp_l0, (grid.height_c, grid.width_c))
    places = list(tiles_with_tissue(grid, tissue_c))
    corners_m = ((grid.origin_c(column) * grid.cell_px, grid.origin_c(row) * grid.cell_px) for row, column in places)
    read_tile = RowReader(slide, frame, contract.task.tile_px, corners_m)
    return Plan(read_tile, frame.width_m, frame.height_m, grid, places, options.batch, options.in_flight, STRIP_PX)


def _areas_mm2(task: TissueTask, counts: np.ndarray[tuple[int], np.dtype[np.int64]], frame: Frame) -> dict[str, float]:
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
