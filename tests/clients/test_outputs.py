"""What is made of a slide beside its mask, by the flags, through the whole client with a served network that is not real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image

from clients.cli import SegmentConfig, main
from clients.errors import OutputError, RegionError
from clients.geojson import PolygonOptions
from clients.label_store import open_label
from clients.outputs import OutputOptions, check_regions
from clients.probability_map import read_probabilities
from clients.segment import SegmentOptions, segment_slide
from clients.served_model import ServedModel
from clients.summary import SlideSummary
from serving.contract import Kind

from .fake_triton import MODEL, FakeTriton
from .painted import CELL_PX, Labels, contract, paint, stripes, write_slide

SHAPE = (2400, 400)  # three strips


class StoppedError(Exception):
    """Stands for Ctrl-C or a kill: the run ends here."""


def segment(
    path: Path, folder: Path, outputs: OutputOptions, kind: Kind = "segment", stop_at: int | None = None, **options: Any
) -> SlideSummary:
    def progress(done: int, total: int) -> None:
        if stop_at is not None and done >= stop_at:
            raise StoppedError

    with FakeTriton(contract(kind)) as server, ServedModel(server.address, MODEL) as client:
        summary = segment_slide(path, client, folder, SegmentOptions(batch=8, outputs=outputs, **options), progress)
    assert summary is not None
    return summary


def mask_of(folder: Path) -> Labels:
    return np.asarray(open_label(folder / "s.ome.zarr").levels[0].pixels[:])


@pytest.fixture(scope="module")
def truth() -> Labels:
    return stripes(SHAPE, horizontal=True)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, truth: Labels) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "s.tiff", paint(truth), 0.5)


def roi_file(path: Path, *box: float) -> Path:
    path.write_text(json.dumps(shapely.geometry.mapping(shapely.box(*box))))
    return path


def test_every_file_is_there_and_the_summary_names_them(slide: Path, tmp_path: Path) -> None:
    summary = segment(slide, tmp_path, OutputOptions(probabilities=True, heatmaps=True))
    heatmaps = [f"s.heatmap.{name}.png" for name in ("tumor", "gland", "stroma", "necrosis")]
    names = {"s.ome.zarr", "s.overlay.png", "s.summary.json", "s.tissue.png", "s.geojson.gz", "s.qupath.groovy", "s.probabilities.ome.zarr"}
    assert {path.name for path in tmp_path.iterdir()} == names | set(heatmaps)
    told = json.loads((tmp_path / "s.summary.json").read_text())["outputs"]
    assert told == json.loads(json.dumps(summary.outputs))
    assert told["ngff"] == "0.5"
    assert told["tissue"]["file"] == "s.tissue.png"
    assert told["tissue"]["mpp"] == [8.0, 8.0]
    assert told["geojson"]["file"] == "s.geojson.gz"
    assert (told["geojson"]["level"], told["geojson"]["level_mpp"]) == (0, [0.5, 0.5])
    assert told["probabilities"] == "s.probabilities.ome.zarr"
    assert told["heatmaps"] == heatmaps


@pytest.mark.parametrize("kind", ["segment", "cam"])
def test_probabilities_and_heat_maps_show_the_painted_classes(slide: Path, tmp_path: Path, truth: Labels, kind: Kind) -> None:
    segment(slide, tmp_path, OutputOptions(no_tissue=True, probabilities=True, heatmaps=True, geojson=False), kind)
    levels = read_probabilities(tmp_path / "s.probabilities.ome.zarr")
    cells = truth[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    if kind == "segment":
        np.testing.assert_array_equal(levels.argmax(axis=0), cells)
        assert levels.max(axis=0).min() == 255
    else:
        for index, level in enumerate(levels, start=1):
            np.testing.assert_array_equal(level > 200, cells == index)
    heat = np.asarray(Image.open(tmp_path / "s.heatmap.gland.png"))[:1200, :200]
    gland, tumor = (np.flatnonzero(cells[:, 0] == index)[[0, -1]] * 2 for index in (2, 1))  # cells of 4 pixels, thumbnail pixels of 2
    assert (heat[gland, 50] > 150).all()
    assert heat[tumor, 50].tolist() == [[40, 30, 190]] * 2  # as it is painted


def test_an_interrupted_run_ends_with_the_same_files(slide: Path, tmp_path: Path) -> None:
    outputs = OutputOptions(no_tissue=True, probabilities=True, heatmaps=True, roi=roi_file(tmp_path / "roi.geojson", 30, 30, 333, 2222))
    segment(slide, tmp_path / "whole", outputs, "cam")
    with pytest.raises(StoppedError):
        segment(slide, tmp_path / "parts", outputs, "cam", stop_at=250)
    assert (tmp_path / "parts" / ".s.ome.zarr.state").exists()
    resumed = segment(slide, tmp_path / "parts", outputs, "cam")
    assert resumed.kept_tiles > 0
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {path.name for path in (tmp_path / "whole").iterdir()}
    np.testing.assert_array_equal(mask_of(tmp_path / "parts"), mask_of(tmp_path / "whole"))
    parts, whole = (read_probabilities(tmp_path / folder / "s.probabilities.ome.zarr") for folder in ("parts", "whole"))
    np.testing.assert_array_equal(parts, whole)
    for name in ("s.heatmap.tumor.png", "s.geojson.gz", "s.overlay.png", "s.tissue.png"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_region_or_format_is_another_mask(slide: Path, tmp_path: Path) -> None:
    segment(slide, tmp_path, OutputOptions(geojson=False))
    roi = roi_file(tmp_path / "roi.geojson", 0, 0, 100, 100)
    for outputs, changed in (
        (OutputOptions(roi=roi), "roi"),
        (OutputOptions(ngff="0.4"), "ngff"),
        (OutputOptions(heatmaps=True), "outputs"),
    ):
        with pytest.raises(OutputError, match=f"since then changed: .*{changed}"):
            segment(slide, tmp_path, outputs, skip_existing=True)


def test_tissue_is_where_the_mask_says(slide: Path, tmp_path: Path, truth: Labels) -> None:
    mask = np.zeros((24, 4), np.uint8)
    mask[3:5] = 1  # rows 300…500 of the slide
    Image.fromarray(mask).save(tmp_path / "mask.png")
    summary = segment(slide, tmp_path / "out", OutputOptions(tissue=tmp_path / "mask.png"), overlap=0.0)
    assert summary.tissue_tiles == 7 * 4  # rows 256…511 of tiles of 64
    assert summary.outputs["tissue"]["source"] == "mask.png"
    found = mask_of(tmp_path / "out")
    np.testing.assert_array_equal(found[256:508], truth[256:508])
    assert not found[:256].any()
    assert not found[512:].any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"tissue": Path("a.png"), "no_tissue": True}, "without --no-tissue"),
        ({"polygons": PolygonOptions(min_area_um2=-1)}, "--min-area-um2 -1"),
        ({"polygons": PolygonOptions(simplify_px=-1)}, "--simplify-px -1"),
    ],
)
def test_flags_that_contradict_each_other(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OutputOptions(**flags)


def test_files_are_looked_at_before_a_server_is_started(tmp_path: Path) -> None:
    for options in (OutputOptions(tissue=tmp_path / "absent.png"), OutputOptions(roi=tmp_path / "absent.geojson")):
        with pytest.raises(RegionError, match="found none"):
            check_regions(Path("s.svs"), options)
    (tmp_path / "bad.geojson").write_text("[]")
    with pytest.raises(RegionError, match="expected polygons"):
        check_regions(Path("s.svs"), OutputOptions(roi=tmp_path / "bad.geojson"))


def test_the_command_takes_every_flag(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    roi = roi_file(tmp_path / "roi.geojson", 0, 100, 400, 700)
    out = tmp_path / "out"
    flags = ["--ngff", "0.4", "--no-tissue", "--min-area-um2", "10", "--simplify-px", "1", "--probabilities", "--heatmaps"]
    with FakeTriton(contract()) as server:
        place = ["--server", server.address, "--model", MODEL, "--output", str(out)]
        assert main([str(slide), *place, "--roi", str(roi), *flags]) == 0
    assert open_label(out / "s.ome.zarr").version == "0.4"
    told = json.loads((out / "s.summary.json").read_text())["outputs"]
    assert (told["geojson"]["min_area_um2"], told["geojson"]["simplify_px"]) == (10, 1)
    assert told["tissue"]["source"] == "every tile"
    assert told["roi"]["area_mm2"] == pytest.approx(400 * 600 * 0.25e-6)
    page = (out / "index.html").read_text()
    assert "--simplify-px 1" in page
    assert "s.tiff" in page


def test_wrong_usage_exits_with_2(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([str(slide), "--output", str(tmp_path), "--tissue", "a.png", "--no-tissue"])
    assert exit_info.value.code == 2
    assert SegmentConfig(slides=("a.svs",), output=str(tmp_path), geojson=False).outputs == OutputOptions(geojson=False)
