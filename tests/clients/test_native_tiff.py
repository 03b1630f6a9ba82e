"""Which slides are read natively, which are not, and what is said of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile

from clients.native_tiff import NotNativeError, find_native_levels
from clients.slide import open_slide

from .encoded import APERIO, add_level, encode_tiles, jpeg, jpeg2000, jpeg_part, picture, write_encoded
from .painted import Rgb, write_slide

PICTURE = picture(333, 457)
SIZES = [(457, 333)]


def test_levels_and_tiles_as_the_file_holds_them(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tiff", PICTURE, 0.5, levels=2)
    first, second = find_native_levels(path, "generic-tiff", [(457, 333), (229, 167)])
    assert (first.width, first.height, first.tile_width, first.tile_height, first.codec) == (457, 333, 64, 64, "deflate")
    assert (first.columns, first.rows, second.columns, second.rows) == (8, 6, 4, 3)
    assert (len(first.offsets), len(second.byte_counts)) == (48, 12)
    assert not first.is_differenced
    with open(path, "rb") as file:
        file.seek(int(second.offsets[5]))
        assert file.read(2) == b"\x78\x9c"  # where zlib streams start


def test_jpeg_tables_and_color_space(tmp_path: Path) -> None:
    tables = jpeg_part(PICTURE[:64, :64], tables=True)
    path = write_encoded(tmp_path / "s.tiff", PICTURE, partial(jpeg_part, tables=False), jpegtables=tables)
    (level,) = find_native_levels(path, "generic-tiff", SIZES)
    assert (level.codec, level.is_ycbcr, level.jpeg_tables) == ("JPEG", True, tables)
    (level,) = find_native_levels(write_encoded(tmp_path / "t.tiff", PICTURE, jpeg, "rgb"), "generic-tiff", SIZES)
    assert (level.codec, level.is_ycbcr, level.jpeg_tables) == ("JPEG", False, b"")


def test_levels_in_any_order_and_no_label_among_them(tmp_path: Path) -> None:
    """A tiled picture that is not marked as reduced is no level, though it is as tiled as they are."""
    path = tmp_path / "s.tiff"
    label = picture(90, 120, seed=1)
    with tifffile.TiffWriter(path) as writer:
        for rgb, reduced in [(PICTURE[::2, ::2], 0), (label, 0), (PICTURE, 1)]:
            writer.write(rgb, tile=(64, 64), photometric="rgb", compression="lzw", subfiletype=reduced, metadata=None)
        writer.write(label, rowsperstrip=16, photometric="rgb", compression="lzw", subfiletype=1, metadata=None)
    with open_slide(path) as slide:
        assert slide.reader == "native"
        assert [(level.width, level.height) for level in slide.levels] == [(457, 333), (229, 167)]
        np.testing.assert_array_equal(slide.read(0, 0, 0, 457, 333), PICTURE)
        np.testing.assert_array_equal(slide.read(1, 0, 0, 229, 167), PICTURE[::2, ::2])


def test_levels_that_are_not_openslide_s_are_refused(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tiff", PICTURE, 0.5)
    with pytest.raises(NotNativeError, match=r"its levels are 457×332 to OpenSlide, 457×333 to tifffile"):
        find_native_levels(path, "generic-tiff", [(457, 332)])
    with pytest.raises(NotNativeError, match="its format is hamamatsu, native reading is for aperio and generic-tiff"):
        find_native_levels(path, "hamamatsu", SIZES)
    text = tmp_path / "text.tiff"
    text.write_text("not a slide")
    with pytest.raises(NotNativeError, match="tifffile cannot parse it"):
        find_native_levels(text, "generic-tiff", SIZES)


def test_ycbcr_jpeg_2000_is_left_to_openslide(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "s.svs", PICTURE, jpeg2000, "rgb", compression=33003, description=APERIO)
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert slide.reader_reason.startswith("its JPEG 2000 tiles are YCbCr (33003)")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"planarconfig": "separate"}, "its planar configuration is 2"),
        ({"extratags": [(274, 3, 1, 3, True)]}, "its orientation is 3"),
        ({"compression": "packbits"}, "its compression is 32773"),
    ],
    ids=["planar", "orientation", "packbits"],
)
def test_other_pixels_are_left_to_openslide_and_right(tmp_path: Path, options: dict[str, object], reason: str) -> None:
    path = tmp_path / "s.tiff"
    rgb = np.moveaxis(PICTURE, -1, 0) if "planarconfig" in options else PICTURE
    tifffile.imwrite(path, rgb, tile=(64, 64), photometric="rgb", metadata=None, **options)  # type: ignore[arg-type]
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as oracle:
        assert (slide.reader, slide.reader_reason.startswith(reason)) == ("openslide", True)
        expected = np.asarray(oracle.read_region((0, 0), 0, (457, 333)))[..., :3]
        np.testing.assert_array_equal(slide.read(0, 0, 0, 457, 333), expected)


@pytest.mark.parametrize("channels", [1, 4])
def test_not_three_samples(tmp_path: Path, channels: int) -> None:
    path = tmp_path / "s.tiff"
    samples = PICTURE[..., 0] if channels == 1 else np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)])
    tifffile.imwrite(path, samples, tile=(64, 64), photometric="minisblack" if channels == 1 else "rgb", metadata=None)
    with open_slide(path) as slide:
        assert (slide.reader, slide.reader_reason) == ("openslide", f"its samples per pixel is {channels}, native reading is for 3")


def test_aperio_pyramids_with_missing_tiles_are_left_to_openslide(tmp_path: Path) -> None:
    """OpenSlide paints such a tile from the finer level; white would be a hole in the tissue."""
    tiles = encode_tiles(PICTURE, partial(jpeg, color="RGB"))
    lower = encode_tiles(PICTURE[::2, ::2], partial(jpeg, color="RGB"))
    lower[5] = b""
    path = tmp_path / "s.svs"
    with tifffile.TiffWriter(path) as writer:
        add_level(writer, PICTURE, tiles, "rgb", description=APERIO)
        add_level(writer, PICTURE[::2, ::2], lower, "rgb", subfiletype=1, description=APERIO)
    with open_slide(path) as slide:
        assert (slide.reader, len(slide.levels)) == ("openslide", 2)
        assert "tiles are missing" in slide.reader_reason
        assert not (slide.read(1, 64, 64, 64, 64) == 255).all()


def test_an_aperio_slide_of_one_level_may_lack_tiles(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "s.svs", PICTURE, partial(jpeg, color="RGB"), "rgb", missing=9, description=APERIO)
    with open_slide(path) as slide:
        assert slide.reader == "native"
        assert (slide.read(0, 64, 64, 64, 64) == 255).all()


def test_what_only_openslide_can_decode_is_left_to_it(tmp_path: Path) -> None:
    """libtiff does not mind bytes beyond the tile's, libdeflate does: found out on opening, not in the middle of a slide."""

    def too_long(tile: Rgb) -> bytes:
        return bytes(imagecodecs.deflate_encode(tile.tobytes() + b"more"))

    path = write_encoded(tmp_path / "s.tiff", PICTURE, too_long, "rgb", compression="adobe_deflate")
    with open_slide(path) as slide:
        assert slide.reader == "openslide"
        assert slide.reader_reason.startswith("OpenSlide alone can decode level 0, tile (")
        np.testing.assert_array_equal(slide.read(0, 0, 0, 457, 333), PICTURE)


def test_a_decoder_that_rounds_otherwise_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_encoded(tmp_path / "s.tiff", PICTURE, jpeg)
    decode = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *args, **options: decode(*args, **(options | {"fastupsample": True})))
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as oracle:
        assert slide.reader == "openslide"
        assert slide.reader_reason.startswith("it decodes to other pixels than OpenSlide's at level 0, tile (")
        expected = np.asarray(oracle.read_region((0, 0), 0, (457, 333)))[..., :3]
        np.testing.assert_array_equal(slide.read(0, 0, 0, 457, 333), expected)


def test_an_icc_profile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.tiff"
    tifffile.imwrite(path, PICTURE, tile=(64, 64), photometric="rgb", metadata=None, iccprofile=b"profile" * 20)
    with open_slide(path) as slide:
        assert slide.icc_ignored
        np.testing.assert_array_equal(slide.read(0, 0, 0, 457, 333), PICTURE)
    with open_slide(write_slide(tmp_path / "t.tiff", PICTURE, 0.5)) as slide:
        assert not slide.icc_ignored


def test_openslide_on_request(tmp_path: Path) -> None:
    with open_slide(write_slide(tmp_path / "s.tiff", PICTURE, 0.5), native=False) as slide:
        assert (slide.reader, slide.reader_reason) == ("openslide", "it was asked for")
        np.testing.assert_array_equal(slide.read(0, 3, 5, 400, 300), PICTURE[5:305, 3:403])
