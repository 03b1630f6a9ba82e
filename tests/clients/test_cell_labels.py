"""The short ways against the rules that they stand for, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.cell_labels import covered_share, labels_of_cells
from serving.background import area_fraction
from serving.probabilities import labels_from_levels


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(1, 6),
    height=st.integers(1, 13),
    width=st.integers(1, 13),
    cell_px=st.sampled_from([1, 2, 3, 4, 8, 16]),
    # Few levels make ties, in a cell and between them.
    levels=st.sampled_from([2, 3, 256]),
)
def test_labels_are_those_of_the_whole_upsampled_picture(
    seed: int, classes: int, height: int, width: int, cell_px: int, levels: int
) -> None:
    random = np.random.default_rng(seed)
    cells = (random.integers(0, levels, (classes, height, width)) * (255 // (levels - 1))).astype(np.uint8)
    assert np.array_equal(labels_of_cells(cells, cell_px), labels_from_levels(cells, cell_px))


def test_a_region_s_border_between_cells_is_drawn_to_the_pixel() -> None:
    """255 against 0 in the left cells, 0 against 51 in the right: they are equal at a sixth of the way before the right center."""
    cells = np.zeros((2, 6, 8), dtype=np.uint8)
    cells[0, :, :4] = 255
    cells[1, :, 4:] = 51
    labels = labels_of_cells(cells, 4)
    assert (labels == np.repeat([0, 1], [17, 15])).all()


@pytest.mark.parametrize("cell_px", [1, 4, 16])
def test_share_of_a_cell(cell_px: int) -> None:
    mask = np.random.default_rng(0).random((6 * cell_px, 5 * cell_px)) < 0.4
    mask[:cell_px, :cell_px] = True
    share = covered_share(mask, cell_px)
    assert share[0, 0] == 1
    assert share.dtype == np.float32
    assert np.array_equal(share, area_fraction(mask, cell_px))
