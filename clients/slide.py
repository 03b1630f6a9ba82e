"""A slide's pixels and properties, level by level. Knows no file format: a reader gives tiles, this keeps and joins them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal, Self

import numpy as np

from .native_tiff import NotNativeError, find_native_levels
from .native_tiles import NativeReader
from .openslide_reader import BLOCK_PX, Level, OpenSlideReader, Properties, Rgb, TileReader
from .zarr_slide import ZarrReader, is_zarr

__all__ = ["BLOCK_PX", "Level", "Rgb", "Slide", "open_slide"]

ReaderName = Literal["native", "openslide", "zarr"]
MAX_THREADS = 8
_MIN_CACHE_BYTES = 64 << 20
_KEPT_ROWS = 2


class Slide:
    """An open slide; use `open_slide`. Safe to use from many threads, not in a process forked after it was opened.

    A pixel's value does not depend on the rectangle that it is read in. At level 0 both readers give the pixels that OpenSlide gives.
    Below, the native reader gives a level's pixels as the file holds them; OpenSlide moves them by the fraction of a pixel by which
    level-0 coordinates miss them where a level is no whole fraction of level 0, block by block of `BLOCK_PX`.

    Attributes:
        reader: who decodes the pixels.
        reader_reason: why it is not the other.
        mpp: micrometers per level-0 pixel, (x, y), as the file says; None where it does not say.
        bounds_l0: x, y, width, height of the scanned rectangle within level 0.
        icc_ignored: the file holds an ICC profile, which is not applied: pixels are as they are stored.
    """

    def __init__(self, path: Path, properties: Properties, source: TileReader, reader: ReaderName, reason: str, threads: int) -> None:
        self.path = path
        self.levels = properties.levels
        self.mpp = properties.mpp
        self.bounds_l0 = properties.bounds_l0
        self.icc_ignored = properties.has_icc
        self.reader: ReaderName = reader
        self.reader_reason = reason
        self._source = source
        self._tiles = _TileRows(source, threads)

    @property
    def width_l0(self) -> int:
        return self.levels[0].width

    @property
    def height_l0(self) -> int:
        return self.levels[0].height

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Rgb:
        """A rectangle in pixels of that level, uint8 RGB (height, width, 3); pixels that the file lacks are white.

        Decodes the tiles that the rectangle touches, unless they are still there. Kept are the last two rows of tiles, after a read
        that is narrower than the level all rows that it touched: its neighbor to the right wants them.

        Raises:
            ValueError: the rectangle is not within the level, or the slide is closed.
            SlideError: the file is damaged there.
        """
        rows, columns = self._touched(level, x, y, width, height)
        tile_width, tile_height = self._source.tile_size(level)
        rgb = np.empty((height, width, 3), dtype=np.uint8)
        kept = _KEPT_ROWS if width == self.levels[level].width else max(_KEPT_ROWS, len(rows))
        budget = self._bytes_of_rows(level, kept)
        for row, tiles in self._decoded_rows(level, rows, columns, budget):
            top = row * tile_height
            for column, tile in zip(columns, tiles, strict=True):
                left = column * tile_width
                x0, x1 = max(x, left), min(x + width, left + tile.shape[1])
                y0, y1 = max(y, top), min(y + height, top + tile.shape[0])
                rgb[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return rgb

    def prefetch(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Begin to decode what a later `read` of the rectangle will want, and return at once. Errors are left to that read.

        The rows of tiles are kept until they are read or the next rectangle is prefetched: memory for one rectangle ahead.

        Raises:
            ValueError: as of `read`.
        """
        rows, columns = self._touched(level, x, y, width, height)
        self._tiles.reserve(self._bytes_of_rows(level, len(rows)))
        for row in rows:
            self._tiles.request(level, row, columns)

    def close(self) -> None:
        """Waits for tiles that are being decoded; reads that wait for others fail. Closing twice does nothing."""
        if self._tiles.close():
            self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _touched(self, level: int, x: int, y: int, width: int, height: int) -> tuple[range, range]:
        """Rows and columns of tiles."""
        size = self.levels[level]
        if not (0 <= x < x + width <= size.width and 0 <= y < y + height <= size.height):
            raise ValueError(f"expected a rectangle within {size.width}×{size.height}, got {width}×{height} at ({x}, {y})")
        tile_width, tile_height = self._source.tile_size(level)
        rows = range(y // tile_height, (y + height - 1) // tile_height + 1)
        return rows, range(x // tile_width, (x + width - 1) // tile_width + 1)

    def _decoded_rows(self, level: int, rows: range, columns: range, budget: int) -> Iterator[tuple[int, list[Rgb]]]:
        """Row by row, the next one being decoded meanwhile: a large rectangle is never held twice."""
        waiting: list[Future[Rgb]] = []
        try:
            for row in rows:
                asked = waiting or self._tiles.request(level, row, columns)
                waiting = self._tiles.request(level, row + 1, columns) if row + 1 in rows else []
                yield row, [future.result() for future in asked]
                self._tiles.forget(budget)
        except CancelledError:
            raise ValueError(f"{self.path}: closed while it was being read") from None

    def _bytes_of_rows(self, level: int, rows: int) -> int:
        tile_width, tile_height = self._source.tile_size(level)
        return rows * tile_height * 3 * (self.levels[level].width + tile_width)


class _TileRows:
    """Tiles decoded or being decoded, by rows; the row that was asked for longest ago goes first. Each tile is decoded once while it is here."""

    def __init__(self, source: TileReader, threads: int) -> None:
        self._source = source
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="slide")
        self._lock = Lock()
        self._rows: OrderedDict[tuple[int, int], dict[int, Future[Rgb]]] = OrderedDict()
        self._bytes = 0
        self._reserved = 0
        self._is_closed = False

    def request(self, level: int, row: int, columns: range) -> list[Future[Rgb]]:
        with self._lock:
            if self._is_closed:
                raise ValueError("expected an open slide, it was closed")
            tiles = self._rows.setdefault((level, row), {})
            self._rows.move_to_end((level, row))
            for column in columns:
                if column not in tiles:
                    tiles[column] = self._pool.submit(self._source.read_tile, level, column, row)
                    self._bytes += self._tile_bytes(level)
            return [tiles[column] for column in columns]

    def reserve(self, count: int) -> None:
        """Bytes that are kept beyond the budget of reads."""
        with self._lock:
            self._reserved = count

    def forget(self, budget: int) -> None:
        with self._lock:
            allowed = max(_MIN_CACHE_BYTES, budget) + self._reserved
            while self._bytes > allowed and self._rows:
                (level, _), tiles = self._rows.popitem(last=False)
                self._bytes -= len(tiles) * self._tile_bytes(level)

    def close(self) -> bool:
        """Whether it was open."""
        with self._lock:
            was_open, self._is_closed = not self._is_closed, True
        if was_open:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._rows.clear()
        return was_open

    def _tile_bytes(self, level: int) -> int:
        width, height = self._source.tile_size(level)
        return width * height * 3


def open_slide(path: Path, threads: int | None = None, native: bool = True) -> Slide:
    """Open a slide in any format that OpenSlide reads, or an OME-Zarr image; a context manager.

    Args:
        threads: that decode tiles; None = the cores of this process, at most 8.
        native: decode the tiles of a TIFF here where that gives OpenSlide's pixels; False = leave all to OpenSlide.

    Raises:
        SlideError: no such file, no slide, or a damaged one.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    threads = threads or min(MAX_THREADS, _cores())
    if is_zarr(path):
        image = ZarrReader(path)
        return Slide(path, image.properties, image, "zarr", "it is an OME-Zarr image", threads)
    oracle = OpenSlideReader(path)
    reason = "it was asked for"
    if native:
        try:
            source = _native_reader(path, oracle)
        except NotNativeError as refusal:
            reason = str(refusal)
        else:
            oracle.close()
            return Slide(path, oracle.properties, source, "native", "its tiles are decoded here to the same pixels, faster", threads)
    return Slide(path, oracle.properties, oracle, "openslide", reason, threads)


def _native_reader(path: Path, oracle: OpenSlideReader) -> NativeReader:
    """Checked on a tile of each level against OpenSlide: the two bring their own builds of the decoders.

    Raises:
        NotNativeError: OpenSlide must read it.
    """
    if not hasattr(os, "pread"):
        raise NotNativeError("this system cannot read a file from many threads")
    levels = oracle.properties.levels
    sizes = [(level.width, level.height) for level in levels]
    reader = NativeReader(path, find_native_levels(path, oracle.properties.vendor, sizes), levels)
    difference = oracle.first_difference(reader, reader.fullest_tile())
    if difference is not None:
        reader.close()
        raise NotNativeError(difference)
    return reader


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
