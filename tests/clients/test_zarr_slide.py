"""OME-Zarr images as slides: pixels, levels and scale, of both NGFF versions and several orders of axes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from clients.errors import SlideError
from clients.label_store import open_label
from clients.segment import SegmentOptions, segment_slide
from clients.served_model import ServedModel
from clients.slide import open_slide

from .fake_triton import MODEL, FakeTriton
from .painted import Rgb, contract, paint, stripes

UNIT = "micrometer"


def write(
    path: Path, rgb: Rgb, *, version: str = "0.5", axes: str = "cyx", mpp: float = 0.5, unit: str | None = UNIT, levels: int = 2
) -> Path:
    kind = {"c": "channel", "t": "time"}
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level in range(levels):
        pixels = rgb[:: 2**level, :: 2**level]
        shape = tuple({"c": 3, "y": pixels.shape[0], "x": pixels.shape[1]}.get(axis, 1) for axis in axes)
        chunks = tuple(min(side, 100) for side in shape)
        array = group.create_array(str(level), shape=shape, dtype="uint8", chunks=chunks)
        wanted = [axis for axis in axes if axis in "cyx"]
        array[...] = pixels.transpose(["yxc".index(axis) for axis in wanted]).reshape(shape)
        scale = [mpp * 2**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    described = [{"name": axis, "type": kind.get(axis, "space"), **({"unit": unit} if axis in "yx" and unit else {})} for axis in axes]
    multiscales: list[Any] = [{"version": version, "axes": described, "datasets": datasets}]
    group.attrs.update({"ome": {"version": version, "multiscales": multiscales}} if version == "0.5" else {"multiscales": multiscales})
    return path


@pytest.fixture
def rgb() -> Rgb:
    return np.random.default_rng(0).integers(0, 256, (703, 601, 3), dtype=np.uint8)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["cyx", "yxc", "tczyx"])
def test_gives_the_pixels_of_every_level(tmp_path: Path, rgb: Rgb, version: str, axes: str) -> None:
    with open_slide(write(tmp_path / "s.ome.zarr", rgb, version=version, axes=axes)) as slide:
        assert slide.reader == "zarr"
        assert [(level.width, level.height, level.downsample) for level in slide.levels] == [(601, 703, 1.0), (301, 352, 2.0)]
        assert slide.mpp == (0.5, 0.5)
        assert slide.bounds_l0 == (0, 0, 601, 703)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 601, 703), rgb)
        np.testing.assert_array_equal(slide.read(1, 31, 57, 200, 250), rgb[::2, ::2][57:307, 31:231])


@pytest.mark.parametrize(
    ("unit", "scale", "mpp"), [("nanometer", 250.0, 0.25), ("millimeter", 0.0005, 0.5), (None, 0.5, None), ("furlong", 1, None)]
)
def test_the_scale_has_a_unit(tmp_path: Path, rgb: Rgb, unit: str | None, scale: float, mpp: float | None) -> None:
    with open_slide(write(tmp_path / "s.zarr", rgb, unit=unit, mpp=scale)) as slide:
        assert slide.mpp == (None if mpp is None else pytest.approx((mpp, mpp)))


def test_the_first_image_of_a_collection_is_the_slide(tmp_path: Path, rgb: Rgb) -> None:
    zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    write(tmp_path / "s.zarr" / "0", rgb, version="0.4")
    with open_slide(tmp_path / "s.zarr") as slide:
        np.testing.assert_array_equal(slide.read(0, 5, 6, 7, 8), rgb[6:14, 5:12])


def test_says_what_cannot_be_a_slide(tmp_path: Path, rgb: Rgb) -> None:
    zarr.open_group(tmp_path / "empty.zarr", mode="w")
    with pytest.raises(SlideError, match=r"empty\.zarr: expected a slide, or an OME-Zarr image"):
        open_slide(tmp_path / "empty.zarr")
    write(tmp_path / "plane.zarr", rgb, axes="cyx")
    group = zarr.open_group(tmp_path / "plane.zarr", mode="r+")
    group.create_array("0", shape=(4, 50, 50), dtype="uint16", overwrite=True)
    with pytest.raises(SlideError, match=r"plane\.zarr: expected an RGB image \(3 channels of uint8\), got 4 channels of uint16"):
        open_slide(tmp_path / "plane.zarr")


def test_a_damaged_chunk_is_named(tmp_path: Path, rgb: Rgb) -> None:
    path = write(tmp_path / "s.zarr", rgb)
    (path / "0/c/0/0/0").write_bytes(b"no")
    with open_slide(path) as slide, pytest.raises(SlideError, match=r"s\.zarr: damaged at level 0, tile \(0, 0\)"):
        slide.read(0, 0, 0, 10, 10)


def test_is_segmented_like_any_slide(tmp_path: Path) -> None:
    truth = stripes((500, 600))
    path = write(tmp_path / "s.zarr", paint(truth))
    with FakeTriton(contract()) as server, ServedModel(server.address, MODEL) as client:
        segment_slide(path, client, tmp_path / "out", SegmentOptions(), lambda done, total: None)
    np.testing.assert_array_equal(np.asarray(open_label(tmp_path / "out/s.ome.zarr").levels[0].pixels[:]), truth)
