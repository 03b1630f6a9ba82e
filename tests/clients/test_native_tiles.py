"""Native tiles against OpenSlide, the oracle: every compression, missing and damaged tiles, and the real slides."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from clients.errors import SlideError
from clients.slide import open_slide

from .encoded import (
    APERIO,
    TILE_PX,
    add_level,
    encode_tiles,
    jpeg,
    jpeg2000,
    jpeg_part,
    overwrite_tile,
    picture,
    rgb_jpeg_that_claims_to_be_jfif,
    write_encoded,
)
from .painted import Rgb, write_slide

SLIDES = Path(__file__).parents[3] / "shared" / "data" / "slides"
PICTURE = picture(333, 457)  # odd sides, no multiple of a tile: 8 × 6 tiles


def oracle(path: Path, level: int = 0) -> Rgb:
    """A whole level from its corner, where OpenSlide moves nothing; white where it has no pixel."""
    with openslide.OpenSlide(str(path)) as slide:
        rgba = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
    return np.where(rgba[..., 3:] == 0, np.uint8(255), rgba[..., :3])


def read_native(path: Path, level: int = 0) -> Rgb:
    with open_slide(path) as slide:
        assert slide.reader == "native", slide.reader_reason
        return slide.read(level, 0, 0, slide.levels[level].width, slide.levels[level].height)


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_ycbcr_jpeg(tmp_path: Path, subsampling: str) -> None:
    path = write_encoded(tmp_path / "s.tiff", PICTURE, partial(jpeg, subsampling=subsampling))
    rgb = read_native(path)
    np.testing.assert_array_equal(rgb, oracle(path))
    assert np.abs(rgb.astype(int) - PICTURE).mean() < 12


@pytest.mark.parametrize("encode", [partial(jpeg, color="RGB"), rgb_jpeg_that_claims_to_be_jfif], ids=["plain", "jfif"])
def test_rgb_jpeg_is_told_by_the_tiff_not_by_the_stream(tmp_path: Path, encode: partial[bytes]) -> None:
    path = write_encoded(tmp_path / "s.tiff", PICTURE, encode, photometric="rgb")
    rgb = read_native(path)
    np.testing.assert_array_equal(rgb, oracle(path))
    assert np.abs(rgb.astype(int) - PICTURE).mean() < 12


@pytest.mark.parametrize("photometric", ["ycbcr", "rgb"])
def test_abbreviated_jpeg_with_its_tables(tmp_path: Path, photometric: str) -> None:
    tables = jpeg_part(PICTURE[:TILE_PX, :TILE_PX], tables=True)
    path = write_encoded(tmp_path / "s.tiff", PICTURE, partial(jpeg_part, tables=False), photometric, jpegtables=tables)
    np.testing.assert_array_equal(read_native(path), oracle(path))


def test_jpeg_2000_of_aperio(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "s.svs", PICTURE, jpeg2000, "rgb", compression=33005, description=APERIO)
    rgb = read_native(path)
    np.testing.assert_array_equal(rgb, oracle(path))
    assert np.abs(rgb.astype(int) - PICTURE).mean() < 12


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        (None, False),
        ("lzw", False),
        ("lzw", True),
        ("deflate", False),
        ("deflate", True),
        ("adobe_deflate", False),
        ("adobe_deflate", True),
    ],
)
def test_lossless(tmp_path: Path, compression: str | None, predictor: bool) -> None:
    path = tmp_path / "s.tiff"
    tifffile.imwrite(path, PICTURE, tile=(96, 64), photometric="rgb", compression=compression, predictor=predictor, bigtiff=True)
    np.testing.assert_array_equal(read_native(path), PICTURE)
    np.testing.assert_array_equal(oracle(path), PICTURE)


def test_lower_levels_are_the_file_s_own_pixels(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tiff", PICTURE, 0.5, levels=3)
    with open_slide(path) as slide:
        assert slide.levels[1].downsample == 2.0  # though 333 / 167 is not
        np.testing.assert_array_equal(slide.read(1, 101, 99, 77, 50), PICTURE[::2, ::2][99:149, 101:178])
    np.testing.assert_array_equal(read_native(path, 2), PICTURE[::4, ::4])
    np.testing.assert_array_equal(oracle(path, 2), PICTURE[::4, ::4])


@pytest.mark.parametrize("missing", [0, 11, 47])
def test_a_missing_tile_is_white(tmp_path: Path, missing: int) -> None:
    path = write_encoded(tmp_path / "s.tiff", PICTURE, jpeg, missing=missing)
    rgb = read_native(path)
    np.testing.assert_array_equal(rgb, oracle(path))
    row, column = divmod(missing, 8)
    assert (rgb[row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX] == 255).all()
    assert (rgb == 255).mean() < 0.3


def end_early(data: bytearray) -> None:
    """libjpeg would paint the rest gray."""
    data[len(data) // 2 : len(data) // 2 + 2] = b"\xff\xd9"


def test_a_damaged_tile_names_level_tile_and_slide_and_no_other_suffers(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "s.tiff", PICTURE, jpeg)
    whole = read_native(path)

    overwrite_tile(path, 8 * 2 + 3, end_early)
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=r"s\.tiff: damaged at level 0, tile \(3, 2\) of 8×6: expected JPEG pixels, .*"):
            slide.read(0, 0, 0, 457, 333)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 457, 128), whole[:128])
        np.testing.assert_array_equal(slide.read(0, 256, 128, 201, 205), whole[128:, 256:])


def test_jpeg_damage_is_found_wherever_openslide_finds_it(tmp_path: Path) -> None:
    """libjpeg decodes on after an error; what it makes up must not become a mask. Where OpenSlide does not see it, pixels are equal."""
    path = write_encoded(tmp_path / "s.tiff", PICTURE, jpeg)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    found = 0
    for _ in range(60):
        path.write_bytes(content)
        index = int(random.integers(48))

        def flip(data: bytearray) -> None:
            at = int(random.integers(640, len(data) - 2))
            data[at] ^= 1 << int(random.integers(8))

        overwrite_tile(path, index, flip)
        try:
            expected = oracle(path)
        except openslide.OpenSlideError:
            found += 1
            row, column = divmod(index, 8)
            with pytest.raises(SlideError, match=rf"tile \({column}, {row}\)"):
                read_native(path)
        else:
            np.testing.assert_array_equal(read_native(path), expected)
    assert 5 < found < 55  # both cases were met


def test_bytes_after_the_last_pixel_do_no_harm(tmp_path: Path) -> None:
    """libjpeg warns of them, OpenSlide never gets that far."""

    def padded(tile: Rgb) -> bytes:
        return jpeg(tile)[:-2] + bytes(range(1, 40)) + b"\xff\xd9"

    path = write_encoded(tmp_path / "s.tiff", PICTURE, padded)
    plain = write_encoded(tmp_path / "plain.tiff", PICTURE, jpeg)
    np.testing.assert_array_equal(read_native(path), read_native(plain))
    np.testing.assert_array_equal(read_native(path), oracle(path))


def test_a_damaged_lower_level_is_found(tmp_path: Path) -> None:
    path = tmp_path / "s.tiff"
    lower = encode_tiles(PICTURE[::2, ::2], jpeg)
    damaged = bytearray(lower[5])
    end_early(damaged)
    lower[5] = bytes(damaged)
    with tifffile.TiffWriter(path) as writer:
        add_level(writer, PICTURE, encode_tiles(PICTURE, jpeg), "ycbcr")
        add_level(writer, PICTURE[::2, ::2], lower, "ycbcr", subfiletype=1)
    with open_slide(path) as slide:
        assert slide.read(0, 0, 0, 457, 333).shape == (333, 457, 3)
        with pytest.raises(SlideError, match=r"level 1, tile \(1, 1\) of 4×3"):
            slide.read(1, 64, 64, 10, 10)


@pytest.mark.parametrize(
    ("compression", "reason"), [("lzw", r"\d+ bytes of 12288"), ("adobe_deflate", "libdeflate_zlib_decompress returned LIBDEFLATE_")]
)
def test_a_damaged_lossless_tile(tmp_path: Path, compression: str, reason: str) -> None:
    path = tmp_path / "s.tiff"
    tifffile.imwrite(path, PICTURE, tile=(64, 64), photometric="rgb", compression=compression, metadata=None)

    def damage(data: bytearray) -> None:
        data[len(data) // 2 :] = imagecodecs.lzw_encode(b"").ljust(len(data) - len(data) // 2, b"\x80")

    overwrite_tile(path, 47, damage)
    with open_slide(path) as slide, pytest.raises(SlideError, match=rf"tile \(7, 5\) of 8×6: expected .* pixels, {reason}"):
        slide.read(0, 0, 300, 457, 33)


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    path = write_encoded(tmp_path / "s.tiff", PICTURE, jpeg)
    with open_slide(path) as slide:
        os.truncate(path, slide.path.stat().st_size - 100)
        with pytest.raises(SlideError, match=r"tile \(7, 5\) of 8×6: expected JPEG pixels, the file ends \d+ bytes before the tile does"):
            slide.read(0, 0, 300, 457, 33)


def test_a_tile_that_claims_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """Else a few wrong bytes ask for gigabytes."""
    wide = write_encoded(tmp_path / "wide.svs", PICTURE, jpeg2000, "rgb", compression=33005, description=APERIO)

    def widen(data: bytearray) -> None:
        data[8:12] = (1 << 30).to_bytes(4, "big")

    overwrite_tile(wide, 1, widen)
    with pytest.raises(SlideError, match=r"tile \(1, 0\) of 8×6: expected JPEG 2000 pixels, no JPEG 2000 codestream of 64×64"):
        read_native(wide)
    small = write_encoded(tmp_path / "small.tiff", PICTURE, lambda tile: jpeg(tile[:32]))
    with pytest.raises(
        SlideError, match=r"tile \(0, 0\) of 8×6: expected JPEG pixels, a JPEG of 64×32 with 03 components in a tile of 64×64"
    ):
        read_native(small)


@pytest.mark.slide
@pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides (../shared/data/slides) are not here")
@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("cmu-1-small-region.svs", "native"),
        ("cmu-1-small-region-wrong-mpp.tiff", "native"),
        ("tcga-cr-7395.svs", "native"),
        pytest.param("luna-1065626.svs", "openslide", marks=pytest.mark.slow),
    ],
)
def test_real_slides_are_openslide_s_to_the_byte(name: str, reader: str) -> None:
    with open_slide(SLIDES / name) as slide, openslide.OpenSlide(str(SLIDES / name)) as truth:
        assert slide.reader == reader
        assert [(level.width, level.height) for level in slide.levels] == list(truth.level_dimensions)
        for top in range(0, slide.height_l0, 1000):  # rows that cut blocks and native tiles
            height = min(1000, slide.height_l0 - top)
            expected = np.asarray(truth.read_region((0, top), 0, (slide.width_l0, height)))
            assert (expected[..., 3] == 255).all()
            np.testing.assert_array_equal(slide.read(0, 0, top, slide.width_l0, height), expected[..., :3])
        for index, level in enumerate(slide.levels[1:], start=1):
            if reader == "native":
                np.testing.assert_array_equal(slide.read(index, 0, 0, level.width, level.height), oracle(SLIDES / name, index))
