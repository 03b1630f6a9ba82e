"""What is made of a slide beside its mask, and which of its cells are sent at all: the flags, and the order in which they take effect."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import shapely

from serving.contract import Contract

from .errors import RegionError
from .frame import Frame
from .geojson import PolygonOptions, write_geojson
from .label_store import open_label
from .ngff_convert import convert_to_04
from .placement import place_frame
from .qupath import write_qupath_script
from .regions import read_regions
from .roi import Region, read_region, widen
from .slide import Slide
from .summary import replace_file
from .tiling import TileGrid
from .tissue import TissueMap
from .tissue_source import TissueCells, file_of_slide, tissue_everywhere, tissue_of_file, tissue_of_thumbnail

Ngff = Literal["0.4", "0.5"]


@dataclass(frozen=True)
class OutputOptions:
    """What to make of a slide.

    Attributes:
        ngff: version of the mask's store.
        geojson: write `S.geojson.gz` and `S.qupath.groovy`.
        polygons: how its polygons differ from the mask.
        tissue: a mask image or GeoJSON that says where tissue is, or a folder of them named after the slides; None = the thumbnail.
        no_tissue: send every tile.
        roi: GeoJSON of the part that is asked for, or a folder of them; None = the whole slide.
        probabilities: write `S.probabilities.ome.zarr`.
        heatmaps: write `S.heatmap.<class>.png`.

    Raises:
        ValueError: `tissue` and `no_tissue`, or a negative length or area.
    """

    ngff: Ngff = "0.5"
    geojson: bool = True
    polygons: PolygonOptions = field(default_factory=PolygonOptions)
    tissue: Path | None = None
    no_tissue: bool = False
    roi: Path | None = None
    probabilities: bool = False
    heatmaps: bool = False

    def __post_init__(self) -> None:
        if self.tissue is not None and self.no_tissue:
            raise ValueError("--tissue: expected it without --no-tissue, got both")
        if self.polygons.min_area_um2 < 0:
            raise ValueError(f"--min-area-um2 {self.polygons.min_area_um2:g}: expected at least 0")
        if self.polygons.simplify_px < 0:
            raise ValueError(f"--simplify-px {self.polygons.simplify_px:g}: expected at least 0")

    def parts(self, selection: Selection) -> dict[str, str]:
        """Of the fingerprint, what these options add: the pixels that are kept, the files that grow with the mask, its format."""
        parts: dict[str, str] = {}
        if selection.roi is not None:
            parts["roi"] = hashlib.sha256(shapely.to_wkb(selection.roi.polygons_m)).hexdigest()[:32]
        if wanted := [name for name in ("probabilities", "heatmaps") if getattr(self, name)]:
            parts["outputs"] = ", ".join(wanted)
        if self.ngff != "0.5":
            parts["ngff"] = self.ngff
        return parts


@dataclass(frozen=True)
class Selection:
    """What of a slide is sent, and what of its labels is kept.

    Attributes:
        cells: bool (height_c, width_c), cells worth sending.
        tissue: where tissue is.
        roi: the part that is asked for; None = all.
        sources: files that decided, by flag.
    """

    cells: npt.NDArray[np.bool_]
    tissue: TissueMap
    roi: Region | None
    sources: Mapping[str, str]

    def keep(self, y_m: int, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A strip of labels that starts at row `y_m`, 0 outside of the part that is asked for."""
        if self.roi is None:
            return labels
        kept: npt.NDArray[np.uint8] = np.where(self.roi.strip(y_m, len(labels)), labels, 0).astype(np.uint8)
        return kept


def check_regions(slide: Path, options: OutputOptions) -> None:
    """Whether the files of `--tissue` and `--roi` can be used at all; cheap, before a server is started.

    Raises:
        RegionError: one is missing or malformed. Whether it fits the slide is seen when that is open.
    """
    for given in (options.tissue, options.roi):
        if given is None:
            continue
        path = file_of_slide(given, slide)
        if not path.is_file():
            raise RegionError(f"{path}: expected a file, found none: check the path")
        if given is options.roi:
            read_regions(path)


def select_cells(
    slide: Slide, mpp_l0: tuple[float, float], frame: Frame, grid: TileGrid, contract: Contract, options: OutputOptions
) -> Selection:
    """Find tissue and the region of interest.

    Raises:
        RegionError: a file that cannot be read or does not fit the slide.
    """
    sources: dict[str, str] = {}
    tissue = _find_tissue(slide, mpp_l0, frame, grid, options)
    if options.tissue is not None:
        sources["tissue"] = tissue.shown.source
    if options.roi is None:
        return Selection(tissue.cells, tissue.shown, None, sources)
    path = file_of_slide(options.roi, slide.path)
    region = read_region(path, place_frame(slide, frame), (frame.height_m, frame.width_m))
    sources["roi"] = path.name
    return Selection(tissue.cells & widen(region.cells(grid), _reach_c(contract)), tissue.shown, region, sources)


def write_outputs(
    store: Path, finished: Path, slide: Slide, frame: Frame, contract: Contract, selection: Selection, options: OutputOptions
) -> dict[str, Any]:
    """Everything that is made of a finished store; gives what the summary says of it. Files appear when they are whole.

    Args:
        store: the name that the store will have; the other files are beside it.
        finished: where it is now.

    Raises:
        OutputError: the store is not one of ours.
    """
    folder, stem = store.parent, _stem(store)
    placement = place_frame(slide, frame)
    colors = {tissue.name: "#{:02x}{:02x}{:02x}".format(*tissue.color) for tissue in contract.task.classes}
    tissue = _write_tissue(folder / f"{stem}.tissue.png", selection)
    told: dict[str, Any] = {"ngff": options.ngff, "colors": colors, "tissue": tissue}
    if selection.roi is not None:
        pixel_mm2 = frame.mpp_x * frame.mpp_y / 1e6
        told["roi"] = {"file": selection.sources["roi"], "area_mm2": round(selection.roi.area_px * pixel_mm2, 6)}
    if options.geojson:
        path = folder / f"{stem}.geojson.gz"
        label = open_label(finished)
        written = []
        replace_file(
            path,
            lambda partial: written.append(write_geojson(partial, slide.path.name, label, contract.task, placement, options.polygons)),
        )
        told["geojson"] = {"file": path.name, **dataclasses.asdict(written[0]), **dataclasses.asdict(options.polygons)}
        script = folder / f"{stem}.qupath.groovy"
        args = (slide.path.name, path.name, store.name, contract.task, placement, slide.bounds_l0[2:])
        replace_file(script, lambda partial: write_qupath_script(partial, *args))
        told["qupath"] = script.name
    if options.ngff == "0.4":
        convert_to_04(finished)
    return told


def _find_tissue(slide: Slide, mpp_l0: tuple[float, float], frame: Frame, grid: TileGrid, options: OutputOptions) -> TissueCells:
    if options.no_tissue:
        return tissue_everywhere(slide, mpp_l0, grid)
    if options.tissue is None:
        return tissue_of_thumbnail(slide, mpp_l0, grid)
    return tissue_of_file(file_of_slide(options.tissue, slide.path), slide, mpp_l0, frame, grid)


def _stem(store: Path) -> str:
    return store.name.removesuffix(".ome.zarr")


def _reach_c(contract: Contract) -> int:
    """How far beside the region lies what decides a label in it: the background rule's components, and a cell of the upsampling."""
    rule = contract.task.background
    return -(-(rule.min_size_px if rule else 0) // contract.cell_px) + 1


def _write_tissue(path: Path, selection: Selection) -> dict[str, Any]:
    tissue = selection.tissue
    replace_file(path, tissue.save)
    return {"file": path.name, "mpp": list(tissue.mpp), "source": tissue.source, "share": round(float(tissue.mask.mean()), 6)}
