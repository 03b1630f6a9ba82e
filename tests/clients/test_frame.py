"""Frames: which level, what scale, how many pixels, and that reading in bands equals reading at once."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.errors import ScaleError
from clients.frame import Frame, choose_frame, read_frame, slide_mpp
from clients.slide import Slide, open_slide
from clients.thumbnail import LabelThumbnail, coarsen, read_thumbnail

from .painted import write_slide

NOISE = np.random.default_rng(0).integers(0, 256, (301, 397, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "s.tiff", NOISE, 0.25, levels=3)


def frame_of(path: Path, mpp: tuple[float, float], wanted: float) -> Frame:
    with open_slide(path) as slide:
        return choose_frame(slide, mpp, wanted)


def test_pixels_within_one_percent_are_used_as_they_are_and_keep_their_own_scale(path: Path) -> None:
    assert frame_of(path, (0.252, 0.2479), 0.25) == Frame(0, 1.0, 1.0, 397, 301, 0.252, 0.2479)
    assert frame_of(path, (0.25, 0.25), 0.5) == Frame(1, 1.0, 1.0, 199, 151, 0.5, 0.5)


def test_else_the_nearest_finer_level_is_reduced(path: Path) -> None:
    assert frame_of(path, (0.25, 0.25), 0.75) == Frame(1, 1.5, 1.5, 133, 101, 0.75, 0.75)
    frame = frame_of(path, (0.2, 0.25), 0.5)  # unequal axes meet at the model's scale
    assert (frame.level, frame.scale_x, frame.scale_y) == (1, 1.25, 1.0)
    assert (frame.mpp_x, frame.mpp_y, frame.width_m, frame.height_m) == (0.5, 0.5, 160, 151)


def test_a_slide_coarser_than_the_model_is_enlarged_and_this_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        frame = frame_of(path, (1.0, 1.0), 0.5)
    assert (frame.level, frame.scale_x, frame.width_m) == (0, 0.5, 794)
    assert "it is enlarged" in caplog.text


def test_the_slide_s_scale_or_the_user_s(path: Path) -> None:
    with open_slide(path) as slide:
        assert slide_mpp(slide, None) == (0.25, 0.25)
        assert slide_mpp(slide, 0.3) == (0.3, 0.3)
        with pytest.raises(ScaleError, match=r"--mpp 30: expected .* within 0\.05…20"):
            slide_mpp(slide, 30)


@pytest.mark.parametrize(("mpp", "message"), [(None, "found none: give them with --mpp"), (0.00499, r"the slide says 0\.00499.* --mpp")])
def test_a_missing_or_absurd_scale_names_the_option(tmp_path: Path, mpp: float | None, message: str) -> None:
    with open_slide(write_slide(tmp_path / "s.tiff", NOISE, mpp)) as slide, pytest.raises(ScaleError, match=message):
        slide_mpp(slide, None)


@settings(deadline=None, max_examples=60)
@given(scale=st.floats(0.4, 6), data=st.data())
def test_any_rectangle_equals_that_of_the_whole(path: Path, scale: float, data: st.DataObject) -> None:
    with open_slide(path) as slide:
        frame = choose_frame(slide, (0.25, 0.25), 0.25 * scale)
        whole = read_frame(slide, frame, 0, 0, frame.width_m, frame.height_m)
        x, y = data.draw(st.integers(0, frame.width_m - 1)), data.draw(st.integers(0, frame.height_m - 1))
        width, height = data.draw(st.integers(1, frame.width_m - x)), data.draw(st.integers(1, frame.height_m - y))
        part = read_frame(slide, frame, x, y, width, height)
    np.testing.assert_array_equal(part, whole[y : y + height, x : x + width])


def test_beyond_the_edge_lies_mirrored_context(path: Path) -> None:
    with open_slide(path) as slide:
        frame = choose_frame(slide, (0.25, 0.25), 0.25)
        read = read_frame(slide, frame, 380, -5, 30, 12)
    expected = np.pad(NOISE, ((5, 0), (0, 13), (0, 0)), mode="symmetric")[:12, 380:410]
    np.testing.assert_array_equal(read, expected)


def means_of_blocks(slide: Slide, frame: Frame, factor: int) -> np.ndarray:
    whole = read_frame(slide, frame, 0, 0, frame.width_m, frame.height_m).astype(float)
    rows = [whole[y : y + factor] for y in range(0, len(whole), factor)]
    return np.array([[row[:, x : x + factor].mean(axis=(0, 1)) for x in range(0, frame.width_m, factor)] for row in rows])


def test_a_thumbnail_s_pixels_are_whole_blocks_of_the_frame(tmp_path: Path) -> None:
    with open_slide(write_slide(tmp_path / "s.tiff", NOISE, 0.25)) as slide:
        frame = choose_frame(slide, (0.25, 0.25), 0.25)
        np.testing.assert_allclose(read_thumbnail(slide, frame, 4), means_of_blocks(slide, frame, 4), atol=0.51)


def test_a_thumbnail_reads_a_coarser_level_of_the_same_place(path: Path) -> None:
    with open_slide(path) as slide:
        frame = choose_frame(slide, (0.25, 0.25), 0.25)
        assert coarsen(slide, frame, 8) == Frame(2, 2.0, 2.0, 50, 38, 2.0, 2.0)
        reduced = choose_frame(slide, (0.25, 0.25), 0.3)
        coarse = coarsen(slide, reduced, 4)
        assert (coarse.level, coarse.width_m, coarse.height_m) == (2, 83, 63)
        assert [coarse.scale_x, coarse.scale_y, coarse.mpp_x, coarse.mpp_y] == pytest.approx([1.2] * 4)


def test_the_thumbnail_of_labels_takes_the_middle_of_each_block() -> None:
    frame = Frame(0, 1.0, 1.0, 4097, 2050, 0.5, 0.5)
    thumbnail = LabelThumbnail(frame)
    assert (thumbnail.factor, thumbnail.labels.shape) == (4, (513, 1025))
    labels = (np.add.outer(np.arange(2050), 3 * np.arange(4097)) % 251).astype(np.uint8)
    for top in range(0, 2050, 1024):
        thumbnail.add(top, labels[top : top + 1024])
    np.testing.assert_array_equal(thumbnail.labels[:512, :1024], labels[2:2050:4, 2:4097:4])
    assert thumbnail.labels[-1, -1] == labels[-1, -1]
