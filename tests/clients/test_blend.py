"""The blender against one big weighted mean, whatever tiles are missing."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.blend import Blender, CellRows
from clients.tiling import make_grid, taper_window


def join(rows: list[CellRows]) -> CellRows:
    return CellRows(
        np.concatenate([part.evidence for part in rows], axis=1),
        np.concatenate([part.covered for part in rows]),
        np.concatenate([part.bright for part in rows]),
    )


@settings(deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), overlap=st.floats(0, 0.75), seed=st.integers(0, 99))
def test_equals_one_weighted_mean_over_the_whole_slide(width: int, height: int, overlap: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    grid = make_grid(width, height, 64, 4, overlap)
    window = taper_window(grid).astype(np.float64)
    pad = grid.tile_c
    total = np.zeros((2, grid.height_c + 3 * pad, grid.width_c + 3 * pad))
    weight = np.zeros(total.shape[1:])
    blender, rows = Blender(grid, 2), []
    for row in range(grid.rows):
        for column in range(grid.columns):
            if random.random() < 0.3:
                continue  # no tissue there
            evidence = random.random((2, 16, 16), dtype=np.float32)
            blender.add(column, evidence, np.zeros((64, 64), np.bool_))
            y, x = grid.origin_c(row) + pad, grid.origin_c(column) + pad
            total[:, y : y + 16, x : x + 16] += evidence * window
            weight[y : y + 16, x : x + 16] += window
        rows.append(blender.finish_row())
    whole = join(rows)
    inside = np.s_[pad : pad + grid.height_c, pad : pad + grid.width_c]
    expected = np.divide(total[:, *inside], weight[inside], out=np.zeros_like(total[:, *inside]), where=weight[inside] > 0)
    np.testing.assert_allclose(whole.evidence, expected, atol=1e-5)
    np.testing.assert_array_equal(whole.covered, weight[inside] > 0)
    # Dark exactly where a tile counted, bright (glass) elsewhere, pixel by pixel.
    np.testing.assert_array_equal(whole.bright, ~whole.covered.repeat(4, axis=0).repeat(4, axis=1))


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 300), overlap=st.floats(0, 0.75), seed=st.integers(0, 99), stop=st.integers(0, 30))
def test_goes_on_from_its_state_bit_for_bit_whatever_tiles_are_missing(height: int, overlap: float, seed: int, stop: int) -> None:
    grid = make_grid(150, height, 64, 4, overlap)
    stop = min(stop, grid.rows - 1)

    def rows_of(blender: Blender, first: int, last: int) -> list[CellRows]:
        rows = []
        for row in range(first, last):
            for column in range(grid.columns):
                random = np.random.default_rng((seed, row, column))
                if random.random() < 0.6:
                    blender.add(column, random.random((2, 16, 16), dtype=np.float32), random.random((64, 64)) < 0.5)
            rows.append(blender.finish_row())
        return rows

    whole = join(rows_of(Blender(grid, 2), 0, grid.rows))
    before, after = Blender(grid, 2), Blender(grid, 2)
    above = rows_of(before, 0, stop)
    after.restore({name: array.copy() for name, array in before.state().items()})
    assert after.row == stop
    parts = join([*above, *rows_of(after, stop, grid.rows)])
    np.testing.assert_array_equal(parts.evidence, whole.evidence)
    np.testing.assert_array_equal(parts.covered, whole.covered)
    np.testing.assert_array_equal(parts.bright, whole.bright)


def test_one_tile_without_overlap_is_passed_through_bit_for_bit() -> None:
    evidence = np.random.default_rng(0).random((5, 16, 16), dtype=np.float32)
    bright = np.random.default_rng(1).random((64, 64)) > 0.5
    blender = Blender(make_grid(64, 64, 64, 4, 0), 5)
    blender.add(0, evidence, bright)
    rows = blender.finish_row()
    np.testing.assert_array_equal(rows.evidence, evidence)
    np.testing.assert_array_equal(rows.bright, bright)
