"""The tile grid: every cell is covered, halos weigh nothing, neighbors' weights add up, tissue is never missed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.tiling import TileGrid, make_grid, taper_window, tiles_with_tissue

grids = st.builds(make_grid, st.integers(1, 700), st.integers(1, 700), st.just(64), st.sampled_from([4, 8]), st.floats(0, 0.75))


def test_literal_grid_without_overlap() -> None:
    grid = make_grid(130, 64, 64, 4, 0)
    assert (grid.width_c, grid.height_c, grid.columns, grid.rows, grid.halo_c) == (33, 16, 3, 1, 0)
    assert [grid.origin_c(column) for column in range(3)] == [0, 16, 32]
    assert (taper_window(grid) == 1).all()


def test_literal_grid_with_overlap() -> None:
    grid = make_grid(100, 100, 64, 4, 0.5)  # tile 16 cells, stride 8, halo 2
    assert (grid.stride_c, grid.halo_c, grid.columns) == (8, 2, 3)
    assert grid.origin_c(0) == -2
    window = taper_window(grid)[8]
    np.testing.assert_allclose(window, [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1, 1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])


@given(grids)
def test_weights_cover_every_cell_and_add_up_to_one_inside(grid: TileGrid) -> None:
    weight = np.zeros(grid.width_c + 4 * grid.tile_c)
    side = taper_window(grid).max(axis=0)
    for column in range(grid.columns):
        start = grid.origin_c(column) + grid.tile_c
        weight[start : start + grid.tile_c] += side
    inside = weight[grid.tile_c : grid.tile_c + grid.width_c]
    assert (inside > 0).all()
    if grid.overlap_c <= grid.tile_c // 2 and grid.columns > 2:
        between = weight[grid.tile_c + grid.stride_c : grid.tile_c + (grid.columns - 2) * grid.stride_c]
        np.testing.assert_allclose(between, 1, rtol=1e-6)


@given(grids)
def test_the_halo_weighs_nothing(grid: TileGrid) -> None:
    window = taper_window(grid)
    assert (window[: grid.halo_c] == 0).all()
    assert (window[:, len(window) - grid.halo_c :] == 0).all()
    assert (window[grid.halo_c : grid.tile_c - grid.halo_c, grid.tile_c // 2] > 0).all()


@given(grids, st.data())
def test_every_cell_with_tissue_is_covered_by_a_tile_that_is_sent(grid: TileGrid, data: st.DataObject) -> None:
    y, x = data.draw(st.integers(0, grid.height_c - 1)), data.draw(st.integers(0, grid.width_c - 1))
    tissue = np.zeros((grid.height_c, grid.width_c), dtype=np.bool_)
    tissue[y, x] = True
    window = taper_window(grid)
    sent = list(tiles_with_tissue(grid, tissue))
    weights = [window[y - grid.origin_c(row), x - grid.origin_c(column)] for row, column in sent]
    assert weights
    assert all(weight > 0 for weight in weights)  # none is sent in vain
    assert sent == sorted(sent)


def test_without_tissue_nothing_is_sent() -> None:
    grid = make_grid(300, 300, 64, 4, 0.25)
    assert list(tiles_with_tissue(grid, np.zeros((grid.height_c, grid.width_c), np.bool_))) == []


@pytest.mark.parametrize("overlap", [-0.1, 0.76])
def test_refuses_an_overlap_outside_its_range(overlap: float) -> None:
    with pytest.raises(ValueError, match=r"0…0\.75"):
        make_grid(100, 100, 64, 4, overlap)
