"""Rows of cells into strips of labels: background rule with its halo, upsampling with a one-cell halo, argmax. Knows no tiles and no server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.contract import BACKGROUND_INDEX, Contract
from serving.probabilities import add_background, upsample

from .blend import CellRows, unpack
from .cell_labels import covered_share, labels_of_cells
from .large_components import keep_large_components

_CACHED_C = 8  # rows of cells at a time whose probabilities stay in the processor's cache
PIECE_PX = 8_192  # columns at a time: the components of a strip as wide as a slide would be hundreds of megabytes
_CHUNK_C = 32  # rows of cells of a CAM upsampled at a time: the upsampled evidence of a whole strip would be gigabytes


class StripMaker:
    """Takes finished cell rows in order and gives label strips as soon as everything that decides them is there.

    The background rule drops bright components below `min_size_px` pixels. Such a component spans fewer rows than it has pixels,
    so a halo of that many rows makes every strip exactly what the rule says of the whole slide.

    Args:
        height_c: cells down the slide.
        strip_px: rows of a strip; a multiple of the contract's cell.
        piece_px: columns that are decided at a time; changes memory alone.
    """

    def __init__(self, contract: Contract, height_c: int, strip_px: int, piece_px: int = PIECE_PX) -> None:
        self.contract = contract
        self.height_c = height_c
        self.strip_c = strip_px // contract.cell_px
        self._piece_c = max(1, piece_px // contract.cell_px)
        rule = contract.task.background
        self._min_size_px = rule.min_size_px if rule else 0
        self._halo_c = -(-self._min_size_px // contract.cell_px) + 1  # the rule's, and one cell for the upsampling
        self._room_c = min(height_c, self.strip_c + 3 * self._halo_c)
        self._next_c = 0  # first row of the next strip
        self._rows = _RowBuffer(contract.cell_px, self._room_c)

    def add(self, rows: CellRows) -> Iterator[npt.NDArray[np.uint8]]:
        """Take the next rows; give the strips they complete, uint8 (rows, width_c·cell_px)."""
        self._rows.append(rows)
        yield from self.complete()

    def complete(self) -> Iterator[npt.NDArray[np.uint8]]:
        """The strips that the rows so far complete and that were not given yet: some, after `restore`."""
        while self._next_c < self.height_c and self._rows.end_c >= min(self._strip_end_c() + self._halo_c, self.height_c):
            yield self._make_strip()

    @property
    def next_m(self) -> int:
        """First row of pixels of the next strip."""
        return self._next_c * self.contract.cell_px

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What a later run needs to go on with the next strip; may be taken whenever a strip was given."""
        rows = self._rows.all()
        # Evidence is looked at from one cell above the next strip on; only the background rule's halo reaches further.
        above_c = max(0, self._next_c - 1 - self._rows.start_c)
        return {
            "next": np.array(self._next_c),
            "start": np.array(self._rows.start_c),
            "evidence": rows.evidence[:, above_c:],
            "covered": rows.covered,
            "bright": np.packbits(rows.bright),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on where the maker of `state` was."""
        covered, below = state["covered"], state["evidence"]
        evidence = np.zeros((len(below), *covered.shape), dtype=np.float32)
        evidence[:, covered.shape[0] - below.shape[1] :] = below
        cell_px = self.contract.cell_px
        bright = unpack(state["bright"], (covered.shape[0] * cell_px, covered.shape[1] * cell_px))
        self._next_c = int(state["next"])
        self._rows = _RowBuffer(cell_px, self._room_c, int(state["start"]))
        self._rows.append(CellRows(evidence, covered, bright))

    def _strip_end_c(self) -> int:
        return min(self._next_c + self.strip_c, self.height_c)

    def _make_strip(self) -> npt.NDArray[np.uint8]:
        start_c, end_c = self._next_c, self._strip_end_c()
        low_c, high_c = max(0, start_c - 1), min(self.height_c, end_c + 1)  # with the upsampling's halo
        first_c, last_c = max(0, low_c - self._halo_c + 1), min(self.height_c, high_c + self._halo_c - 1)  # and the rule's
        window = self._rows.between(first_c, last_c)
        inner = slice(low_c - first_c, high_c - first_c)
        cell_px = self.contract.cell_px
        labels = np.full(((end_c - start_c) * cell_px, window.covered.shape[1] * cell_px), BACKGROUND_INDEX, dtype=np.uint8)
        decide = _segment_labels if self.contract.kind == "segment" else _cam_labels
        for span in _spans(np.any(window.covered[inner], axis=0), self._halo_c):
            for piece, around in _pieces(span, self._piece_c):
                background = self._background(window.bright, inner, around)
                evidence, covered = window.evidence[:, inner, around], window.covered[inner, around]
                decided = decide(evidence, covered, background, cell_px, start_c - low_c, end_c - low_c)
                own = slice(piece.start - around.start, piece.stop - around.start)
                labels[:, _pixels(piece, cell_px)] = decided[:, _pixels(own, cell_px)]
        self._next_c = end_c
        self._rows.drop_above(max(0, end_c - self._halo_c))
        return labels

    def _background(self, bright: npt.NDArray[np.bool_], inner: slice, span: slice) -> npt.NDArray[np.bool_]:
        """The rule's background pixels of some cells; what it looks at reaches further by its halo, in every direction."""
        cell_px = self.contract.cell_px
        rows, columns = _pixels(inner, cell_px), _pixels(span, cell_px)
        if self.contract.task.background is None:
            return np.zeros_like(bright[rows, columns])
        left_px = max(0, columns.start - self._min_size_px)
        kept = keep_large_components(bright[:, left_px : columns.stop + self._min_size_px], self._min_size_px)
        return kept[rows, columns.start - left_px : columns.stop - left_px]


def _spans(covered: npt.NDArray[np.bool_], halo_c: int) -> Iterator[slice]:
    """Stretches of columns that hold every covered one with a cell beside it; apart by more than their halos, so that none is looked at twice."""
    columns = np.flatnonzero(covered)
    if not len(columns):
        return
    gaps = np.flatnonzero(np.diff(columns) > 2 * halo_c + 2)
    for first, last in zip([columns[0], *columns[gaps + 1]], [*columns[gaps], columns[-1]], strict=True):
        yield slice(max(0, int(first) - 1), min(len(covered), int(last) + 2))


def _pieces(span: slice, length_c: int) -> Iterator[tuple[slice, slice]]:
    """A span cut into pieces; each with the cells beside it that the upsampling looks at, as far as the span reaches."""
    for start in range(span.start, span.stop, length_c):
        stop = min(start + length_c, span.stop)
        yield slice(start, stop), slice(max(span.start, start - 1), min(span.stop, stop + 1))


def _pixels(cells: slice, cell_px: int) -> slice:
    return slice(cells.start * cell_px, cells.stop * cell_px)


class _RowBuffer:
    """Consecutive cell rows of the slide as they came, in memory of one piece; the topmost are dropped when no longer needed.

    Args:
        room_c: rows that are there at a time, about; more find room, too.
    """

    def __init__(self, cell_px: int, room_c: int, start_c: int = 0) -> None:
        self.start_c = start_c
        self.end_c = start_c
        self._cell_px = cell_px
        self._room_c = room_c
        self._room: CellRows | None = None

    def append(self, rows: CellRows) -> None:
        kept_c, total_c = self.end_c - self.start_c, self.end_c - self.start_c + len(rows.covered)
        if self._room is None or len(self._room.covered) < total_c:
            larger = _empty_rows(rows, max(total_c, self._room_c), self._cell_px)
            if self._room is not None:
                _copy_rows(self.all(), _rows_of(larger, 0, kept_c, self._cell_px))
            self._room = larger
        _copy_rows(rows, _rows_of(self._room, kept_c, total_c, self._cell_px))
        self.end_c += len(rows.covered)

    def all(self) -> CellRows:
        """Views: what is dropped makes room for others."""
        return self.between(self.start_c, self.end_c)

    def between(self, first_c: int, last_c: int) -> CellRows:
        """Views, as `all`."""
        assert self._room is not None  # rows are asked for where there are some
        return _rows_of(self._room, first_c - self.start_c, last_c - self.start_c, self._cell_px)

    def drop_above(self, first_c: int) -> None:
        kept = self.between(max(first_c, self.start_c), self.end_c)
        self.start_c = max(first_c, self.start_c)
        _copy_rows(kept, self.all())


def _empty_rows(like: CellRows, count: int, cell_px: int) -> CellRows:
    channels, _, width_c = like.evidence.shape
    evidence, covered = np.empty((channels, count, width_c), np.float32), np.empty((count, width_c), np.bool_)
    return CellRows(evidence, covered, np.empty((count * cell_px, like.bright.shape[1]), np.bool_))


def _rows_of(rows: CellRows, first: int, last: int, cell_px: int) -> CellRows:
    return CellRows(rows.evidence[:, first:last], rows.covered[first:last], rows.bright[first * cell_px : last * cell_px])


def _copy_rows(source: CellRows, target: CellRows) -> None:
    """They may overlap."""
    target.evidence[...], target.covered[...], target.bright[...] = source.evidence, source.covered, source.bright


def _segment_labels(
    evidence: npt.NDArray[np.float32],
    covered: npt.NDArray[np.bool_],
    background: npt.NDArray[np.bool_],
    cell_px: int,
    start_c: int,
    end_c: int,
) -> npt.NDArray[np.uint8]:
    """What the served `<m>_segment_labels` graph says: background by area fraction on the cells, quantized, upsampled, argmax."""
    levels = np.empty(evidence.shape, dtype=np.uint8)
    for first_c in range(0, len(covered), _CACHED_C):
        rows = slice(first_c, first_c + _CACHED_C)
        probabilities = np.where(covered[rows], evidence[:, rows], np.float32(0))
        probabilities[0][~covered[rows]] = 1
        levels[:, rows] = add_background(probabilities, covered_share(background[_pixels(rows, cell_px)], cell_px))
    return labels_of_cells(levels, cell_px)[start_c * cell_px : end_c * cell_px]


def _cam_labels(
    evidence: npt.NDArray[np.float32],
    covered: npt.NDArray[np.bool_],
    background: npt.NDArray[np.bool_],
    cell_px: int,
    start_c: int,
    end_c: int,
) -> npt.NDArray[np.uint8]:
    """What the served `<m>_cam_labels` graph says: the class with the most evidence, 0 on the background's pixels (eq. 4.9)."""
    parts = []
    for first_c in range(start_c, end_c, _CHUNK_C):
        last_c = min(first_c + _CHUNK_C, end_c)
        low_c, high_c = max(0, first_c - 1), min(evidence.shape[1], last_c + 1)
        winner = upsample(evidence[1:, low_c:high_c], cell_px).argmax(axis=0).astype(np.uint8) + np.uint8(1)
        winner[~covered[low_c:high_c].repeat(cell_px, axis=0).repeat(cell_px, axis=1)] = 0
        winner[background[low_c * cell_px : high_c * cell_px]] = 0
        parts.append(winner[(first_c - low_c) * cell_px : (last_c - low_c) * cell_px])
    return np.concatenate(parts)
