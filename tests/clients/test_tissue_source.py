"""Who says where tissue is: a mask image of any size, polygons, nobody; and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from clients.errors import RegionError
from clients.frame import Frame, choose_frame
from clients.slide import Slide, open_slide
from clients.tiling import TileGrid, make_grid
from clients.tissue_source import TissueCells, file_of_slide, read_mask_image, tissue_everywhere, tissue_of_file, tissue_of_thumbnail

from .painted import paint, stripes, write_slide

MPP = (0.5, 0.5)
WIDTH, HEIGHT, CELL_PX = 803, 601, 4


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slide]:
    path = write_slide(tmp_path_factory.mktemp("slides") / "s.tiff", paint(stripes((HEIGHT, WIDTH))), 0.5)
    with open_slide(path) as opened:
        yield opened


@pytest.fixture
def frame(slide: Slide) -> Frame:
    return choose_frame(slide, MPP, 0.5)


@pytest.fixture
def grid(frame: Frame) -> TileGrid:
    return make_grid(frame.width_m, frame.height_m, 64, CELL_PX, 0.0)


def save(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask).save(path)
    return path


def of_file(path: Path, slide: Slide, frame: Frame, grid: TileGrid) -> TissueCells:
    return tissue_of_file(path, slide, MPP, frame, grid)


def test_a_mask_of_full_size_means_its_cells(slide: Slide, frame: Frame, grid: TileGrid, tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[[0, 5, 600], [0, 9, 802]] = 1  # 1, not 255: not 0 is tissue
    tissue = of_file(save(tmp_path / "m.png", mask), slide, frame, grid)
    assert np.argwhere(tissue.cells).tolist() == [[0, 0], [1, 2], [150, 200]]
    assert tissue.shown.mpp == pytest.approx((0.5, 0.5))


def test_a_small_mask_means_every_cell_under_its_pixels(slide: Slide, frame: Frame, grid: TileGrid, tmp_path: Path) -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[2, 3] = 255  # rows 200.3…300.5, columns 301.1…401.5 of the slide
    tissue = of_file(save(tmp_path / "m.png", mask), slide, frame, grid)
    expected = np.zeros((151, 201), bool)
    expected[50:76, 75:101] = True
    np.testing.assert_array_equal(tissue.cells, expected)
    assert tissue.shown.mpp == pytest.approx((803 * 0.5 / 8, 601 * 0.5 / 6))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_reads_every_kind_of_image(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (4, 3))
    image.putpixel((2, 1), {"RGB": (0, 0, 9), "RGBA": (0, 0, 9, 255), "LA": (9, 255)}.get(mode, 1))
    image.save(tmp_path / "m.png")
    assert np.argwhere(read_mask_image(tmp_path / "m.png")).tolist() == [[1, 2]]


def test_an_alpha_channel_is_no_tissue(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 3), (0, 0, 0, 255)).save(tmp_path / "m.png")
    with pytest.raises(RegionError, match=r"m\.png: expected a mask with tissue .* --no-tissue"):
        read_mask_image(tmp_path / "m.png")


@pytest.mark.parametrize(
    ("size", "fits"), [((803, 601), True), ((800, 604), True), ((20, 16), True), ((803, 590), False), ((80, 61), True), ((601, 803), False)]
)
def test_the_mask_must_have_the_slide_s_shape(
    slide: Slide, frame: Frame, grid: TileGrid, tmp_path: Path, size: tuple[int, int], fits: bool
) -> None:
    path = save(tmp_path / "m.png", np.ones(size[::-1], np.uint8))
    if fits:
        assert of_file(path, slide, frame, grid).cells.all()
        return
    with pytest.raises(RegionError, match=r"803:601 = 1\.336, got .* export it from the whole slide"):
        of_file(path, slide, frame, grid)


def test_the_saved_mask_is_taken_as_it_is(slide: Slide, frame: Frame, grid: TileGrid, tmp_path: Path) -> None:
    own = tissue_of_thumbnail(slide, MPP, grid)
    own.shown.save(tmp_path / "s.tissue.png")
    with Image.open(tmp_path / "s.tissue.png") as image:
        assert image.info["mpp"] == "8 8"
        assert image.info["source"] == own.shown.source
    again = of_file(tmp_path / "s.tissue.png", slide, frame, grid)
    np.testing.assert_array_equal(again.shown.mask, own.shown.mask)
    assert not (own.cells & ~again.cells).any()  # cells at the rim of two pixels count too
    assert 0 < own.cells.sum() <= again.cells.sum() < own.cells.size


def test_polygons_say_it_as_well(slide: Slide, frame: Frame, grid: TileGrid, tmp_path: Path) -> None:
    path = tmp_path / "p.geojson"
    path.write_text(json.dumps(shapely.geometry.mapping(shapely.box(96, 48, 304, 80))))
    tissue = of_file(path, slide, frame, grid)
    expected = np.zeros((151, 201), bool)
    expected[12:20, 24:76] = True
    np.testing.assert_array_equal(tissue.cells, expected)
    assert tissue.shown.mpp == (8.0, 8.0)
    assert np.argwhere(tissue.shown.mask)[[0, -1]].tolist() == [[3, 6], [4, 18]]


def test_everything_can_be_tissue(slide: Slide, grid: TileGrid) -> None:
    assert tissue_everywhere(slide, MPP, grid).cells.all()


def test_a_folder_has_a_file_for_each_slide(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert file_of_slide(tmp_path, Path("slides/a.svs")) == tmp_path / "a.png"
    with pytest.raises(RegionError, match=r"expected one file b\.png or b\.geojson in this folder, found none"):
        file_of_slide(tmp_path, Path("b.svs"))
    (tmp_path / "a.geojson").touch()
    with pytest.raises(RegionError, match=r"found a\.png, a\.geojson"):
        file_of_slide(tmp_path, Path("a.svs"))
    assert file_of_slide(tmp_path / "a.png", Path("b.svs")) == tmp_path / "a.png"


def test_says_what_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match="found no such file"):
        read_mask_image(tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("no")
    with pytest.raises(RegionError, match="cannot read it"):
        read_mask_image(tmp_path / "text.png")
