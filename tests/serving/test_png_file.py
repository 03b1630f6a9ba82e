"""What is written is what every reader finds: Pillow's and the decode step's."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from serving.image_file import decode_tile
from serving.png_file import encode_png

Tile = npt.NDArray[np.uint8]


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_pillow_reads_the_same_pixels(tile: Tile) -> None:
    with Image.open(BytesIO(encode_png(tile))) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.array(image), tile)


def test_the_decode_step_reads_the_same_pixels() -> None:
    tile = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode_tile(encode_png(tile), 32), tile)
    np.testing.assert_array_equal(decode_tile(encode_png(tile[::-1, ::2].repeat(2, axis=1)), 32), tile[::-1, ::2].repeat(2, axis=1))


@pytest.mark.parametrize(
    "tile", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_tile_is_refused(tile: Tile) -> None:
    with pytest.raises(ValueError, match=r"expected uint8 \(height, width, 3\), got"):
        encode_png(tile)
