"""Quartiles, ratios by round, verdicts and agreement, on figures made up for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.bench.peers_ratios import RATIOS, Ratio, agreement, by_peer, quartiles, ratios_of, spread_of, summarize, verdict


def _points(peer: str, *speeds: float | None, peak_mb: float = 100.0) -> list[dict[str, Any]]:
    return [
        {"peer": peer, "round": number, "failed": "no"}
        if speed is None
        else {"peer": peer, "round": number, "tiles_per_s": speed, "peak_mb": peak_mb}
        for number, speed in enumerate(speeds)
    ]


def test_quartiles_are_linear_between_values() -> None:
    assert quartiles([4.0, 1.0, 2.0, 3.0]) == (1.75, 2.5, 3.25)
    assert quartiles([5.0]) == (5.0, 5.0, 5.0)


def test_a_ratio_is_taken_round_by_round() -> None:
    runs = by_peer([*_points("served", 10.0, 40.0, 90.0), *_points("tiatoolbox", 5.0, 10.0, 10.0)])
    assert spread_of(RATIOS["over_tiatoolbox"], runs) == (3.0, 4.0, 6.5)
    assert ratios_of(runs)["over_tiatoolbox"] == 4.0  # of medians it would be 40 / 10 too, of means 140 / 25


def test_a_failed_round_is_left_out_on_both_sides() -> None:
    runs = by_peer([*_points("served", 10.0, None, 90.0), *_points("openslide-onnxruntime", None, 10.0, 30.0)])
    found = ratios_of(runs)
    assert found["over_ort_loop"] == 3.0
    assert found["over_tiatoolbox"] is None
    assert summarize(runs["served"])["tiles_per_s"] == [30.0, 50.0, 70.0]
    assert summarize(_points("served", None)) == {}


def test_memory_is_better_when_it_is_less() -> None:
    runs = by_peer([*_points("served-null", 1.0, peak_mb=300.0), *_points("tiatoolbox-null", 1.0, peak_mb=1000.0)])
    found = ratios_of(runs)
    assert found["memory_over_tiatoolbox"] == 0.3
    assert verdict(RATIOS["memory_over_tiatoolbox"], 0.3) == "missed"
    assert verdict(RATIOS["memory_over_tiatoolbox"], 0.2) == "met"


def test_int8_is_held_against_tiatoolbox_in_the_rounds_in_which_its_gate_let_it_run() -> None:
    runs = by_peer([*_points("served-int8", None, 32.0), *_points("tiatoolbox", 10.0, 20.0), *_points("served", 20.0, 25.0)])
    found = ratios_of(runs)
    assert (found["int8_over_tiatoolbox"], found["int8_over_served"]) == (1.6, 1.28)
    assert verdict(RATIOS["int8_over_tiatoolbox"], 1.6) == "met"
    assert verdict(RATIOS["int8_over_tiatoolbox"], 1.59) == "missed"


def test_cpu_is_what_the_other_needs_over_what_we_need() -> None:
    points = [{"peer": peer, "round": 0, "cpu_s_per_1000_tiles": cpu_s} for peer, cpu_s in (("served", 150.0), ("tiatoolbox", 450.0))]
    assert ratios_of(by_peer(points))["cpu_of_tiatoolbox"] == 3.0


def test_verdicts() -> None:
    goal = Ratio("a", "b", goal=2.0)
    assert [verdict(goal, value) for value in (2.0, 1.99, None)] == ["met", "missed", "not measured"]
    assert verdict(Ratio("a", "b"), 5.0) == ""


def test_the_issues_ratios_are_all_there() -> None:
    assert {
        "served_over_engine",
        "over_tiatoolbox",
        "over_ort_loop",
        "null_over_tiatoolbox",
        "null_over_openslide",
        "memory_over_tiatoolbox",
    } <= set(ratios_of({}))
    assert set(ratios_of({}).values()) == {None}


def test_agreement_leaves_background_out() -> None:
    reference = np.array([[1, 2, 3, 0], [1, 1, 0, 2]], np.uint8)
    other = np.array([[1, 2, 1, 4, 9], [0, 1, 0, 2, 9], [9, 9, 9, 9, 9]], np.uint8)  # whole tiles reach over the slide
    assert agreement(reference, other) == (4 / 5, 5 / 8)


def test_agreement_of_nothing_is_none() -> None:
    assert agreement(np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)) == (None, 0.0)


def test_a_mask_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected at least \(2, 3\) pixels, got \(2, 2\)"):
        agreement(np.ones((2, 3), np.uint8), np.ones((2, 2), np.uint8))


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_agreement_is_the_share_of_pixels_that_were_not_changed(seed: int, changed: int) -> None:
    random = np.random.default_rng(seed)
    reference = random.integers(1, 5, (8, 8)).astype(np.uint8)
    other = reference.copy()
    other.flat[random.choice(64, changed, replace=False)] += 10
    assert agreement(reference, other) == (1 - changed / 64, 1.0)
