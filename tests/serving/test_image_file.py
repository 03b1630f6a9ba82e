"""The image file of a tile: pixels as Pillow's own, and a reason for everything that is no tile."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.image_file import MAX_SCANS, ImageError, decode_tile

PX = 32
FORMATS = {"JPEG": {"quality": 90}, "PNG": {}, "WEBP": {"quality": 90}}
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}}


def pixels(seed: int = 0, side: int = PX) -> npt.NDArray[np.uint8]:
    """Every pixel another, and no two channels alike."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def encode(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def encoded(format_: str, side: int = PX, **options: Any) -> bytes:
    return encode(Image.fromarray(pixels(side=side)), format_, **{**FORMATS[format_], **options})


@pytest.mark.parametrize("format_", LOSSLESS)
def test_lossless_files_give_the_pixels_back(format_: str) -> None:
    np.testing.assert_array_equal(decode_tile(encoded(format_, **LOSSLESS[format_]), PX), pixels())


@pytest.mark.parametrize(
    "options", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"quality": 30}, {"exif": b"Exif\0\0" + bytes(64)}]
)
def test_a_jpeg_is_decoded_as_pillow_decodes_it(options: dict[str, Any]) -> None:
    data = encoded("JPEG", **options)
    with Image.open(BytesIO(data)) as image:
        np.testing.assert_array_equal(decode_tile(data, PX), np.array(image))


@pytest.mark.parametrize("format_", FORMATS)
def test_gray_becomes_three_equal_channels(format_: str) -> None:
    gray = Image.fromarray(pixels()[..., 0])
    decoded = decode_tile(encode(gray, format_, **({"lossless": True} if format_ == "WEBP" else FORMATS[format_])), PX)
    assert (decoded[..., 0] == decoded[..., 1]).all()
    assert (decoded[..., 0] == decoded[..., 2]).all()
    assert np.abs(decoded[..., 0].astype(int) - pixels()[..., 0]).max() <= (0 if format_ != "JPEG" else 60)


def test_a_palette_is_resolved() -> None:
    image = Image.fromarray(pixels()).quantize(16)
    np.testing.assert_array_equal(decode_tile(encode(image, "PNG"), PX), np.array(image.convert("RGB")))


@pytest.mark.parametrize("format_", LOSSLESS)
def test_alpha_must_be_opaque(format_: str) -> None:
    opaque = np.dstack([pixels(), np.full((PX, PX), 255, np.uint8)])
    np.testing.assert_array_equal(decode_tile(encode(Image.fromarray(opaque), format_, **LOSSLESS[format_]), PX), pixels())
    opaque[3, 5, 3] = 254
    with pytest.raises(ImageError, match="expected an opaque image, got transparent pixels"):
        decode_tile(encode(Image.fromarray(opaque), format_, **LOSSLESS[format_]), PX)


def test_a_transparent_color_of_a_palette_is_alpha_too() -> None:
    data = encode(Image.fromarray(pixels()).quantize(16), "PNG", transparency=3)
    with pytest.raises(ImageError, match="transparent pixels"):
        decode_tile(data, PX)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("side", [PX - 1, PX + 1, 512])
def test_another_size_is_named(format_: str, side: int) -> None:
    with pytest.raises(ImageError, match=f"expected 32 x 32 px, got {side} x {side}: cut tiles to the model's size"):
        decode_tile(encoded(format_, side), PX)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}, {"lossless": True, "exif": b"Exif\0\0" + bytes(8)}])
def test_a_webp_of_each_kind_tells_its_size(options: dict[str, Any]) -> None:
    wide = Image.fromarray(pixels(side=64)[:40])
    with pytest.raises(ImageError, match="got 64 x 40"):
        decode_tile(encode(wide, "WEBP", **options), PX)


def test_sixteen_bits_are_refused() -> None:
    gray = Image.fromarray(np.full((PX, PX), 1000, np.uint16))
    with pytest.raises(ImageError, match="expected at most 8 bits per channel, got 16"):
        decode_tile(encode(gray, "PNG"), PX)
    with pytest.raises(ImageError, match="got 16"):
        decode_tile(png_header(PX, PX, bits=16), PX)  # RGB, which Pillow would round down without a word


def test_cmyk_is_refused() -> None:
    with pytest.raises(ImageError, match="expected RGB or gray of 8 bits, got Pillow's mode CMYK"):
        decode_tile(encode(Image.fromarray(pixels()).convert("CMYK"), "JPEG"), PX)


@pytest.mark.parametrize("format_", ["WEBP", "PNG"])
def test_animations_are_refused(format_: str) -> None:
    first, second = Image.fromarray(pixels(1)), Image.fromarray(pixels(2))
    with pytest.raises(ImageError, match="expected one picture, got an animation"):
        decode_tile(encode(first, format_, save_all=True, append_images=[second], duration=100), PX)


def test_other_formats_are_refused() -> None:
    for format_ in ("TIFF", "BMP", "GIF"):
        with pytest.raises(ImageError, match=r"expected the bytes of a JPEG, PNG or WebP file, got .* bytes that begin with"):
            decode_tile(encode(Image.fromarray(pixels()), format_), PX)
    with pytest.raises(ImageError, match="begin with nothing"):
        decode_tile(b"", PX)


def png_header(width: int, height: int, bits: int = 8) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def jpeg_header(width: int, height: int) -> bytes:
    return b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + bytes(9)


def webp_header(width: int, height: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<II", 10, 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("header", [png_header, jpeg_header, webp_header])
def test_a_bomb_is_refused_by_its_header(header: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes that ask for gigabytes; nothing of Pillow runs."""

    def opened(*arguments: Any, **options: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(ImageError, match="expected 32 x 32 px, got 60000 x 50000"):
        decode_tile(header(60_000, 50_000), PX)


def test_a_long_file_and_a_jpeg_of_many_scans_are_refused() -> None:
    with pytest.raises(ImageError, match="expected a file of at most 1054720 bytes, got 1054721"):
        decode_tile(encoded("JPEG").ljust(1_054_721, b"\0"), PX)
    with pytest.raises(ImageError, match=f"at most {MAX_SCANS} scans, got 257"):
        decode_tile(jpeg_header(PX, PX) + b"\xff\xda\0\x02" * 257, PX)


def test_a_changed_byte_of_a_png_is_found_by_its_checksum() -> None:
    data = bytearray(encoded("PNG"))
    data[data.index(b"IDAT") + 40] ^= 1
    with pytest.raises(ImageError, match="expected a whole PNG file, it is damaged or cut off"):
        decode_tile(bytes(data), PX)


@settings(max_examples=150, deadline=None)
@example(format_="PNG", kept=0.999)  # the last checksum alone
@given(format_=st.sampled_from(sorted(FORMATS)), kept=st.floats(0, 0.999))
def test_what_is_cut_off_is_told(format_: str, kept: float) -> None:
    data = encoded(format_)
    with pytest.raises(ImageError):
        decode_tile(data[: min(int(len(data) * kept), len(data) - 3)], PX)


@settings(max_examples=200, deadline=None)
@given(format_=st.sampled_from(sorted(FORMATS)), place=st.floats(0, 0.999), value=st.integers(0, 255))
def test_a_damaged_file_is_a_tile_or_a_reason(format_: str, place: float, value: int) -> None:
    """Never another error, and never another shape."""
    data = bytearray(encoded(format_))
    data[int(len(data) * place)] = value
    try:
        tile = decode_tile(bytes(data), PX)
    except ImageError:
        return
    assert tile.shape == (PX, PX, 3)
