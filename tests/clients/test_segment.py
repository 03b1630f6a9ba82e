"""Painted slides through the whole client: the mask is known to the pixel. The network is the only part that is not real."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image

from clients.errors import OutputError, ServerError
from clients.omezarr import read_label
from clients.segment import SegmentOptions, segment_slide
from clients.served_model import ServedModel
from serving.contract import Contract, Kind

from .fake_triton import MODEL, FakeTriton
from .painted import Labels, contract, paint, stripes, write_slide


def no_progress(done: int, total: int) -> None:
    pass


def segment(path: Path, output: Path, promise: Contract, options: SegmentOptions | None = None) -> Labels:
    with FakeTriton(promise) as server, ServedModel(server.address, MODEL) as client:
        segment_slide(path, client, output, options or SegmentOptions(batch=5, in_flight=3), no_progress)
    return read_label(output / f"{path.stem}.ome.zarr").labels


@pytest.mark.parametrize("kind", ["segment", "cam"])
@pytest.mark.parametrize("horizontal", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.75])
def test_the_mask_is_the_painting_to_the_pixel(tmp_path: Path, kind: Kind, horizontal: bool, overlap: float) -> None:
    truth = stripes((1100, 1301), horizontal)  # sides that are no multiple of anything
    path = write_slide(tmp_path / "s.tiff", paint(truth), 0.5)
    mask = segment(path, tmp_path, contract(kind), SegmentOptions(overlap=overlap, batch=7, in_flight=2))
    np.testing.assert_array_equal(mask, truth)


def test_islands_lie_where_they_are_and_glass_between_is_not_sent(tmp_path: Path) -> None:
    truth = np.zeros((1600, 2100), np.uint8)
    truth[200:600, 300:700] = 2
    truth[1200:1500, 1500:1900] = 4
    path = write_slide(tmp_path / "s.tiff", paint(truth), 0.5)
    with FakeTriton(contract()) as server, ServedModel(server.address, MODEL) as client:
        summary = segment_slide(path, client, tmp_path, SegmentOptions(), no_progress)
        assert summary is not None
        assert {count for _, count, _ in server.requests} == {8}  # the last one is filled up
        assert 0 <= 8 * len(server.requests) - summary.tissue_tiles < 8
        assert summary.tissue_tiles < summary.tiles / 3
    mask = read_label(tmp_path / "s.ome.zarr").labels
    for y in (200, 599, 1200, 1499):  # three of the four cells around a corner are glass: so is its pixel, bilinearly
        truth[y, [300, 699, 1500, 1899]] = 0
    np.testing.assert_array_equal(mask, truth)
    assert summary.areas_mm2 == {"tumor": 0, "gland": 0.039999, "stroma": 0, "necrosis": 0.029999}
    assert json.loads((tmp_path / "s.summary.json").read_text())["areas_mm2"] == summary.areas_mm2


def test_a_slide_of_twice_the_resolution_is_reduced_and_lies_right(tmp_path: Path) -> None:
    truth = stripes((600, 800))
    fine = truth.repeat(2, axis=0).repeat(2, axis=1)
    path = write_slide(tmp_path / "s.tiff", paint(fine), 0.25)
    np.testing.assert_array_equal(segment(path, tmp_path, contract()), truth)
    assert read_label(tmp_path / "s.ome.zarr").mpp == (0.5, 0.5)


def test_pixels_within_one_percent_keep_their_own_scale(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tiff", paint(stripes((300, 400))), 0.499)
    mask = segment(path, tmp_path, contract())
    assert mask.shape == (300, 400)
    assert read_label(tmp_path / "s.ome.zarr").mpp == pytest.approx((0.499, 0.499), rel=1e-4)


def test_an_empty_slide_gives_an_empty_mask(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tiff", paint(np.zeros((300, 500), np.uint8)), 0.5)
    mask = segment(path, tmp_path, contract())
    assert mask.shape == (300, 500)
    assert not mask.any()


def test_a_slide_smaller_than_a_tile(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tiff", paint(np.full((30, 41), 3, np.uint8)), 4.0)
    mask = segment(path, tmp_path, contract(mpp=4.0))
    np.testing.assert_array_equal(mask, np.full((30, 41), 3))


def test_small_bright_specks_are_tissue_and_large_ones_glass(tmp_path: Path) -> None:
    truth = np.full((400, 600), 1, np.uint8)
    painted = truth.copy()
    painted[100:104, 100:104] = 0  # 16 pixels, fewer than the rule's 20: the rule does not see them, the network does
    painted[200:280, 200:280] = 0
    truth[200:280, 200:280] = 0
    with_cam = segment(write_slide(tmp_path / "s.tiff", paint(painted), 0.5), tmp_path, contract("cam"))
    np.testing.assert_array_equal(with_cam, truth)  # CAMs know no background of their own


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "s.tiff", paint(stripes((400, 500))), 0.5)


@pytest.fixture
def failing() -> Iterator[ServedModel]:
    with (
        FakeTriton(contract(), failures=[None, (grpc.StatusCode.INTERNAL, "no")]) as server,
        ServedModel(server.address, MODEL) as client,
    ):
        yield client


def test_a_failing_server_leaves_no_mask(slide: Path, tmp_path: Path, failing: ServedModel) -> None:
    with pytest.raises(ServerError):
        segment_slide(slide, failing, tmp_path / "out", SegmentOptions(batch=4), no_progress)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_mask_that_is_there_is_refused_before_anything_is_sent(slide: Path, tmp_path: Path) -> None:
    with FakeTriton(contract()) as server, ServedModel(server.address, MODEL) as client:
        segment_slide(slide, client, tmp_path, SegmentOptions(), no_progress)
        sent = len(server.requests)
        with pytest.raises(OutputError, match="--overwrite"):
            segment_slide(slide, client, tmp_path, SegmentOptions(), no_progress)
        assert len(server.requests) == sent
        segment_slide(slide, client, tmp_path, SegmentOptions(overwrite=True), no_progress)


def test_progress_counts_every_tile_once(slide: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    with FakeTriton(contract()) as server, ServedModel(server.address, MODEL) as client:
        summary = segment_slide(slide, client, tmp_path, SegmentOptions(batch=4), lambda done, total: calls.append((done, total)))
    assert summary is not None
    assert calls[-1] == (summary.tissue_tiles, summary.tissue_tiles)
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_the_overlay_shows_classes_on_the_slide_and_leaves_glass_alone(tmp_path: Path) -> None:
    truth = stripes((600, 800))
    rgb = paint(truth)
    segment(write_slide(tmp_path / "s.tiff", rgb, 0.5), tmp_path, contract())
    overlay = np.asarray(Image.open(tmp_path / "s.overlay.png"))[:600, :800]
    np.testing.assert_array_equal(overlay[truth == 0], rgb[truth == 0])
    for index, tissue in enumerate(contract().task.classes, start=1):
        expected = 0.55 * rgb[truth == index] + 0.45 * np.array(tissue.color)
        np.testing.assert_allclose(overlay[truth == index], expected, atol=0.51)
