"""Strips against the whole: whatever the height of a strip, labels are what the shared rules say of the whole slide."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from clients.blend import CellRows
from clients.strips import StripMaker
from serving.background import area_fraction, keep_large
from serving.contract import BackgroundRule, Kind
from serving.probabilities import add_background, labels_from_levels, upsample

from .painted import CELL_PX, contract

WIDTH_C = 40


def random_rows(random: np.random.Generator, height_c: int) -> CellRows:
    """Distributions, bright blobs of every size, and a stretch of the slide that no tile covered."""
    evidence = random.dirichlet(np.ones(5) * 0.5, (height_c, WIDTH_C)).transpose(2, 0, 1).astype(np.float32)
    noise = ndimage.gaussian_filter(random.standard_normal((height_c * CELL_PX, WIDTH_C * CELL_PX)), 2)
    bright = noise > 0.1
    covered = np.ones((height_c, WIDTH_C), np.bool_)
    covered[: height_c // 2, 14:26] = False
    evidence[:, ~covered] = 0
    bright[~covered.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)] = True
    return CellRows(evidence, covered, bright)


def cut(rows: CellRows, starts: list[int]) -> list[CellRows]:
    stops = [*starts[1:], len(rows.covered)]
    return [
        CellRows(rows.evidence[:, a:b], rows.covered[a:b], rows.bright[a * CELL_PX : b * CELL_PX])
        for a, b in zip(starts, stops, strict=True)
    ]


def expected_labels(rows: CellRows, kind: Kind, rule: BackgroundRule | None) -> np.ndarray:
    """The rules of `serving/`, applied once to everything."""
    background = keep_large(rows.bright, rule.min_size_px) if rule else np.zeros_like(rows.bright)
    evidence = rows.evidence.copy()
    if kind == "segment":
        evidence[0][~rows.covered] = 1
        expected: np.ndarray = labels_from_levels(add_background(evidence, area_fraction(background, CELL_PX)), CELL_PX)
        return expected
    labels: np.ndarray = upsample(evidence[1:], CELL_PX).argmax(axis=0) + 1
    labels[~rows.covered.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)] = 0
    labels[background] = 0
    return labels


@pytest.mark.parametrize("kind", ["segment", "cam"])
@pytest.mark.parametrize("rule", [None, BackgroundRule(200, 1), BackgroundRule(200, 37)])
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 999),
    height_c=st.integers(1, 60),
    strip_c=st.integers(1, 25),
    stride_c=st.integers(1, 20),
    piece_c=st.integers(1, WIDTH_C + 1),
)
def test_strips_equal_the_whole_bit_for_bit(
    kind: Kind, rule: BackgroundRule | None, seed: int, height_c: int, strip_c: int, stride_c: int, piece_c: int
) -> None:
    rows = random_rows(np.random.default_rng(seed), height_c)
    maker = StripMaker(contract(kind, rule), height_c, strip_c * CELL_PX, piece_c * CELL_PX)
    strips = [strip for part in cut(rows, list(range(0, height_c, stride_c))) for strip in maker.add(part)]
    assert all(len(strip) == strip_c * CELL_PX for strip in strips[:-1])
    np.testing.assert_array_equal(np.concatenate(strips), expected_labels(rows, kind, rule))


def test_a_strip_comes_as_soon_as_its_halo_is_there() -> None:
    rows = random_rows(np.random.default_rng(0), 60)
    maker = StripMaker(contract("segment", BackgroundRule(200, 16)), 60, 10 * CELL_PX)  # halo: 4 + 1 cells
    given_after = [len(list(maker.add(part))) for part in cut(rows, [0, 14, 15, 25, 35])]
    assert given_after == [0, 1, 1, 1, 3]
