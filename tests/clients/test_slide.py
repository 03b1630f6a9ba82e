"""Opening and reading slides: values, what is decoded how often, threads, and what is said of files that are none."""

from __future__ import annotations

import threading
import time
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import pytest

import clients.openslide_reader
import clients.slide
from clients.errors import SlideError
from clients.openslide_reader import Properties
from clients.slide import Level, Slide, open_slide

from .painted import Rgb, write_slide


@pytest.fixture
def noise() -> Rgb:
    return np.random.default_rng(0).integers(0, 256, (700, 1100, 3), dtype=np.uint8)


@pytest.mark.parametrize("native", [True, False])
def test_reads_any_rectangle_across_tiles_exactly(tmp_path: Path, noise: Rgb, monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr(clients.openslide_reader, "BLOCK_PX", 96)
    monkeypatch.setattr(clients.slide, "_MIN_CACHE_BYTES", 0)  # tiles are forgotten and decoded again
    with open_slide(write_slide(tmp_path / "s.tiff", noise, 0.5), native=native) as slide:
        assert slide.reader == ("native" if native else "openslide")
        assert (slide.width_l0, slide.height_l0, slide.mpp, slide.bounds_l0) == (1100, 700, (0.5, 0.5), (0, 0, 1100, 700))
        for x, y, width, height in [(0, 0, 1100, 700), (95, 97, 2, 200), (1099, 699, 1, 1), (300, 0, 96, 96), (0, 600, 500, 100)]:
            np.testing.assert_array_equal(slide.read(0, x, y, width, height), noise[y : y + height, x : x + width])


def test_openslide_moves_the_pixels_of_fractional_levels_by_less_than_one(tmp_path: Path, noise: Rgb) -> None:
    with open_slide(write_slide(tmp_path / "s.tiff", noise[:699, :1097], 0.5, levels=2), native=False) as slide:
        assert slide.levels[1].downsample == 2.0  # though 699 / 350 is not
        np.testing.assert_allclose(slide.read(1, 10, 20, 50, 40), noise[40:120:2, 20:120:2], atol=60)
        assert slide.read(1, 500, 300, 49, 50).shape == (50, 49, 3)


def test_refuses_a_rectangle_outside(tmp_path: Path, noise: Rgb) -> None:
    with open_slide(write_slide(tmp_path / "s.tiff", noise, 0.5)) as slide, pytest.raises(ValueError, match="within 1100×700"):
        slide.read(0, 1090, 0, 11, 5)


def test_pixels_that_the_file_lacks_are_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    assert clients.openslide_reader._over_white(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]


def test_says_what_is_wrong_with_a_file(tmp_path: Path, noise: Rgb) -> None:
    with pytest.raises(SlideError, match=r"absent\.svs: expected a slide, found no such file"):
        open_slide(tmp_path / "absent.svs")
    text = tmp_path / "text.svs"
    text.write_text("not a slide")
    with pytest.raises(SlideError, match=r"text\.svs: expected a slide in a format that OpenSlide reads"):
        open_slide(text)
    with pytest.raises(SlideError, match="expected a slide in a format"):
        open_slide(tmp_path)


@pytest.mark.parametrize(("native", "place"), [(True, r"tile \(8, 5\) of 18×11"), (False, r"block \(512, 0\)")])
def test_a_slide_that_is_damaged_inside_names_the_place(tmp_path: Path, noise: Rgb, native: bool, place: str) -> None:
    path = write_slide(tmp_path / "s.tiff", noise, 0.5)
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\0" * 20_000)
    with open_slide(path, native=native) as slide:
        with pytest.raises(SlideError, match=rf"s\.tiff: damaged at level 0, {place}"):
            slide.read(0, 0, 0, 1100, 700)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 500, 500), noise[:500, :500])  # the rest stays readable


def test_the_oracle_agrees(tmp_path: Path, noise: Rgb) -> None:
    path = write_slide(tmp_path / "s.tiff", noise, 0.5)
    with open_slide(path) as slide, openslide.OpenSlide(str(path)) as oracle:
        expected = np.asarray(oracle.read_region((37, 411), 0, (600, 250)))[..., :3]
        np.testing.assert_array_equal(slide.read(0, 37, 411, 600, 250), expected)


class CountingReader:
    """A slide of 2400 × 1500 in tiles of 240 whose pixels tell where they are; counts what is decoded and what is still held."""

    size, tile = (2400, 1500), 240
    y, x = np.mgrid[0:1500, 0:2400]
    rgb = np.dstack([x % 251, y % 241, (x + y) % 239]).astype(np.uint8)

    def __init__(self) -> None:
        self.decoded: Counter[tuple[int, int]] = Counter()
        self.alive: weakref.WeakSet[Tile] = weakref.WeakSet()
        self.closed = 0
        self.reading = 0
        self.lock = threading.Lock()

    def tile_size(self, level: int) -> tuple[int, int]:
        return self.tile, self.tile

    def read_tile(self, level: int, column: int, row: int) -> Rgb:
        with self.lock:
            self.reading += 1
            self.decoded[column, row] += 1
        top, left = row * self.tile, column * self.tile
        tile = self.rgb[top : top + self.tile, left : left + self.tile].copy().view(Tile)
        with self.lock:
            self.alive.add(tile)
            self.reading -= 1
        return tile

    def close(self) -> None:
        assert self.reading == 0
        self.closed += 1


class Tile(np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):
    """An array that can be watched and found in a set."""

    __hash__ = object.__hash__  # type: ignore[assignment]


def counting_slide(reader: CountingReader, threads: int = 2) -> Slide:
    width, height = reader.size
    properties = Properties("counting", (Level(width, height, 1.0),), None, (0, 0, width, height), has_icc=False)
    return Slide(Path("counting"), properties, reader, "native", "it is a test", threads)


@pytest.fixture
def no_spare_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.slide, "_MIN_CACHE_BYTES", 0)


@pytest.mark.usefixtures("no_spare_cache")
def test_a_walk_in_bands_decodes_each_tile_once_and_holds_two_rows() -> None:
    reader = CountingReader()
    with counting_slide(reader) as slide:
        for top in range(0, 1500, 100):
            np.testing.assert_array_equal(slide.read(0, 0, top, 2400, 100), reader.rgb[top : top + 100])
            assert len(reader.alive) <= 2 * 10
    assert set(reader.decoded.values()) == {1}
    assert len(reader.decoded) == 10 * 7


@pytest.mark.usefixtures("no_spare_cache")
def test_a_walk_in_overlapping_squares_decodes_each_tile_once_and_holds_the_rows_that_a_square_touches() -> None:
    reader = CountingReader()
    with counting_slide(reader) as slide:
        for top in range(0, 1500 - 300, 250):
            for left in range(0, 2400 - 300, 250):
                np.testing.assert_array_equal(slide.read(0, left, top, 300, 300), reader.rgb[top : top + 300, left : left + 300])
                assert len(reader.alive) <= 3 * 10
    assert set(reader.decoded.values()) == {1}


@pytest.mark.usefixtures("no_spare_cache")
def test_a_large_rectangle_is_not_held_twice() -> None:
    most = 0

    class Watching(CountingReader):
        def read_tile(self, level: int, column: int, row: int) -> Rgb:
            nonlocal most
            most = max(most, len(self.alive))
            return super().read_tile(level, column, row)

    reader = Watching()
    with counting_slide(reader) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 2400, 1500), reader.rgb)
    assert most <= 3 * 10  # two rows kept, one being decoded


def test_tiles_that_nobody_asked_for_are_not_decoded() -> None:
    reader = CountingReader()
    with counting_slide(reader) as slide:
        slide.read(0, 239, 480, 2, 240)
    assert set(reader.decoded) == {(0, 2), (1, 2)}


@pytest.mark.usefixtures("no_spare_cache")
def test_prefetch_returns_at_once_and_is_decoded_once() -> None:
    reader = GatedReader()
    with counting_slide(reader) as slide:
        slide.prefetch(0, 0, 480, 2400, 480)  # would wait for the gate
        reader.gate.set()
        slide.read(0, 0, 0, 2400, 480)
        while reader.decoded.total() < 40:
            time.sleep(0.001)
        np.testing.assert_array_equal(slide.read(0, 0, 480, 2400, 480), reader.rgb[480:960])
    assert (set(reader.decoded.values()), reader.decoded.total()) == ({1}, 40)


class GatedReader(CountingReader):
    """Tiles come when the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def read_tile(self, level: int, column: int, row: int) -> Rgb:
        assert self.gate.wait(20)
        return super().read_tile(level, column, row)


def test_tiles_are_decoded_at_the_same_time() -> None:
    class Pairs(CountingReader):
        barrier = threading.Barrier(2)

        def read_tile(self, level: int, column: int, row: int) -> Rgb:
            self.barrier.wait(20)  # nobody passes alone
            return super().read_tile(level, column, row)

    with counting_slide(Pairs(), threads=2) as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 0, 480, 480), CountingReader.rgb[:480, :480])


def test_many_threads_read_one_slide() -> None:
    reader = CountingReader()
    wrong: list[int] = []

    def walk(left: int) -> None:
        for top in range(0, 1500 - 100, 50):
            if not np.array_equal(slide.read(0, left, top, 333, 100), reader.rgb[top : top + 100, left : left + 333]):
                wrong.append(left)

    with counting_slide(reader, threads=3) as slide:
        walkers = [threading.Thread(target=walk, args=(left,)) for left in (0, 100, 1000, 2000)]
        for walker in walkers:
            walker.start()
        for walker in walkers:
            walker.join(20)
    assert wrong == []
    assert set(reader.decoded.values()) == {1}


def test_closing_waits_for_running_tiles_and_ends_waiting_reads() -> None:
    reader = GatedReader()
    slide = counting_slide(reader, threads=1)
    errors: list[ValueError] = []

    def read() -> None:
        try:
            slide.read(0, 0, 0, 2400, 240)
        except ValueError as error:
            errors.append(error)

    reading = threading.Thread(target=read)
    reading.start()
    while not slide._tiles._rows:
        time.sleep(0.001)
    closing = threading.Thread(target=slide.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    assert reader.closed == 0
    reader.gate.set()
    closing.join(20)
    reading.join(20)
    assert reader.closed == 1
    assert [str(error) for error in errors] == ["counting: closed while it was being read"]
    slide.close()
    assert reader.closed == 1
    with pytest.raises(ValueError, match="expected an open slide, it was closed"):
        slide.read(0, 0, 0, 1, 1)


def test_an_error_of_prefetch_is_left_to_the_read() -> None:
    class Broken(CountingReader):
        def read_tile(self, level: int, column: int, row: int) -> Rgb:
            raise SlideError(f"no tile ({column}, {row})")

    with counting_slide(Broken()) as slide:
        slide.prefetch(0, 0, 0, 2400, 240)
        with pytest.raises(SlideError, match=r"no tile \(1, 0\)"):
            slide.read(0, 300, 0, 10, 10)


def test_threads_are_bounded(tmp_path: Path, noise: Rgb) -> None:
    path = write_slide(tmp_path / "s.tiff", noise, 0.5)
    with pytest.raises(ValueError, match="expected at least 1 thread, got 0"):
        open_slide(path, threads=0)
    before = set(threading.enumerate())
    with open_slide(path, threads=3) as slide:
        slide.read(0, 0, 0, 1100, 700)
        own = set(threading.enumerate()) - before  # those of earlier tests may end meanwhile
        assert 1 <= len(own) <= 3
    assert not own & set(threading.enumerate())
