"""What the page makes of pixels, without a page: sizes, thinning, heat maps over many tiles, names of models."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from clients.call_errors import ImageFileError
from clients.picture import PictureLimits
from clients.tile_client import TileClient
from clients.ui.heat import heat_of
from clients.ui.models import base_name
from clients.ui.slides import Place, SlideFolder
from clients.ui.sources import picture_of_file, png_of
from clients.ui.wire import packed, picture_url, thin
from serving.contract import CAM

from .painted import CELL_PX, paint, read_classes, stripes, write_slide
from .ui_fakes import WholeModel, unpacked

LIMITS = PictureLimits()


def test_a_file_at_the_model_s_scale_is_left_as_it_is() -> None:
    rgb = paint(stripes((90, 130), margin=8))
    for mpp, kept in ((None, None), (0.5, (0.5, 0.5)), (0.504, (0.504, 0.504))):
        picture = picture_of_file(png_of(rgb), mpp, 0.5, LIMITS)
        np.testing.assert_array_equal(picture.rgb, rgb)
        assert (picture.data, picture.mpp) == (png_of(rgb), kept)


def test_another_scale_is_reduced_by_area() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[:, 1::2] = 100
    picture = picture_of_file(png_of(rgb), 0.25, 0.5, LIMITS)
    np.testing.assert_array_equal(picture.rgb, np.full((2, 3, 3), 50))
    np.testing.assert_array_equal(np.array(Image.open(BytesIO(picture.data))), picture.rgb)
    assert picture.mpp == (0.5, 0.5)


def test_what_is_too_large_only_at_the_model_s_scale_is_refused_before_it_is_made() -> None:
    with pytest.raises(ImageFileError, match="at most 1000 pixels at the model's scale, got 60 × 40"):
        picture_of_file(png_of(np.zeros((20, 30, 3), np.uint8)), 1.0, 0.5, PictureLimits(max_px=1000))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 7))
def test_thin_takes_the_middle_of_each_square(height: int, width: int, factor: int) -> None:
    rows, columns = np.arange(height, dtype=np.uint8), np.arange(width, dtype=np.uint8)
    small = thin(rows[:, None] * np.uint8(1) + np.zeros_like(columns), factor)
    assert small.shape == (-(-height // factor), -(-width // factor))
    assert small[:, 0].tolist() == [min(first + factor // 2, height - 1) for first in range(0, height, factor)]


def test_packed_is_every_byte_in_order() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.testing.assert_array_equal(unpacked(packed(values.transpose(2, 0, 1))), values.transpose(2, 0, 1))


def test_large_pictures_are_jpeg_close_to_their_pixels() -> None:
    rgb = np.zeros((1100, 1000, 3), np.uint8)
    rgb[:, 500:] = (200, 40, 90)
    kind, _, encoded = picture_url(rgb).partition(",")
    assert kind == "data:image/jpeg;base64"
    shown = np.array(Image.open(BytesIO(base64.b64decode(encoded)))).astype(int)
    assert np.abs(shown - rgb)[:, [100, 800]].max() <= 4


def test_heat_maps_of_many_rows_of_tiles_lie_where_their_pixels_do() -> None:
    """More tiles than are asked for at once; the classes' stripes are on cell borders."""
    labels = stripes((1000, 180), horizontal=True, margin=0)
    with WholeModel(("cam",)) as server, TileClient(server.address, "painted") as client:
        heat = heat_of(paint(labels), client)
        assert max(count for _, count, _ in server.requests) == 8
        assert {outputs for _, _, names in server.requests for outputs in names} >= {CAM}
    assert heat.maps.shape == (4, 250, 45)
    centers = read_classes(paint(labels))[CELL_PX // 2 :: CELL_PX, CELL_PX // 2 :: CELL_PX]
    is_there = centers[None] == np.arange(1, 5)[:, None, None]
    np.testing.assert_allclose(heat.maps, np.where(is_there, 0.9, 0.0), atol=1e-6)


@pytest.mark.parametrize(
    ("entry", "name"),
    [("lung", "lung"), ("lung_segment", "lung"), ("lung_cam", "lung"), ("lung_segment_image", "lung"), ("a_cam_b", "a_cam_b")],
)
def test_the_model_of_an_entry(entry: str, name: str) -> None:
    assert base_name(entry) == name


@pytest.mark.parametrize(("x", "first"), [(0.0, 0), (0.01, 0), (0.5, 118), (1.0, 236)])
def test_regions_stay_on_the_slide(tmp_path: Path, x: float, first: int) -> None:
    labels = stripes((80, 300), margin=0)
    write_slide(tmp_path / "s.tiff", paint(labels), 0.5)
    folder = SlideFolder(tmp_path)
    try:
        picture = folder.picture("s.tiff", Place(x, 0.5, 64), 0.5, LIMITS)
        taller = folder.picture("s.tiff", Place(x, 0.5, 100), 0.5, LIMITS)
    finally:
        folder.close()
    np.testing.assert_array_equal(picture.rgb, paint(labels)[8:72, first : first + 64])
    assert taller.rgb.shape == (80, 100, 3)
    assert picture.mpp == pytest.approx((0.5, 0.5))


def test_a_thumbnail_is_the_whole_slide(tmp_path: Path) -> None:
    rgb = np.zeros((600, 3000, 3), np.uint8)
    rgb[:, 1500:] = (0, 90, 180)
    write_slide(tmp_path / "s.tiff", rgb, None)
    folder = SlideFolder(tmp_path)
    try:
        overview = folder.overview("s.tiff")
    finally:
        folder.close()
    assert (overview.width_l0, overview.height_l0, overview.mpp) == (3000, 600, None)
    np.testing.assert_array_equal(overview.thumbnail, rgb[::3, ::3])


def test_more_slides_than_are_kept_open(tmp_path: Path) -> None:
    for number in range(6):
        write_slide(tmp_path / f"{number}.tiff", np.full((64, 64, 3), 10 * number, np.uint8), 0.5)
    folder = SlideFolder(tmp_path)
    try:
        reds = [int(folder.overview(f"{number}.tiff").thumbnail[0, 0, 0]) for number in (0, 1, 2, 3, 4, 5, 0)]
    finally:
        folder.close()
    assert reds == [0, 10, 20, 30, 40, 50, 0]
