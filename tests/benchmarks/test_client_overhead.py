"""The comparison itself: turns, medians, and that both sides ask the same of the server and must be told the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.client_overhead import Overhead, OverheadConfig, main, measure_batch, require_same, summarize, take_turns
from benchmarks.errors import BenchmarkError
from tests.clients.painted import contract
from tests.clients.test_tile_client import PaintedTriton

WAY = "a call for each request"


def test_every_second_turn_begins_with_ours_and_each_side_is_charged_its_own() -> None:
    now_s, order = 0.0, list[str]()

    def side(name: str, cost_s: float) -> Callable[[], None]:
        def call() -> None:
            nonlocal now_s
            now_s += cost_s
            order.append(name)

        return call

    assert take_turns(side("bare", 2.0), side("ours", 3.0), 3, clock=lambda: now_s) == [(2.0, 3.0)] * 3
    assert order == ["bare", "ours", "ours", "bare", "bare", "ours"]


def test_the_median_is_of_the_ratios_not_the_ratio_of_the_medians() -> None:
    turns = [(1.0, 1.1), (2.0, 2.1), (10.0, 10.1), (4.0, 4.0), (5.0, 6.0)]
    assert summarize(WAY, 16, 10, turns) == Overhead(WAY, 16, 10, 5, bare_ms=400.0, ours_ms=400.0, overhead=0.05, quartiles=(0.01, 0.1))


def test_one_turn_has_no_quartiles() -> None:
    with pytest.raises(BenchmarkError, match="expected at least 2, got 1"):
        summarize(WAY, 16, 10, [(1.0, 1.0)])


def test_answers_that_differ_in_one_byte_are_not_compared() -> None:
    labels, levels = np.zeros((4, 2, 2), np.uint8), np.zeros((4, 5, 1, 1), np.uint8)
    other = levels.copy()
    other[3, 4] = 1
    require_same(WAY, [(labels[:1], levels[:1]), (labels[1:], levels[1:])], [(labels, levels)])
    with pytest.raises(BenchmarkError, match=f"{WAY}: expected the same PROBABILITIES of both sides"):
        require_same(WAY, [(labels, levels)], [(labels, other)])


@pytest.mark.parametrize(("batch", "ways"), [(3, [WAY]), (8, [WAY, "one call"])])
def test_both_sides_send_the_same_requests(batch: int, ways: list[str]) -> None:
    """Eight is the fake server's limit; a turn for each side, and one that warms up, of every way."""
    config = OverheadConfig(model="painted", tiles=24, in_flight=2, pairs=2)
    with PaintedTriton(contract()) as server:
        rows = measure_batch(server.address, config, batch)
    assert [(row.way, row.batch, row.requests, row.pairs) for row in rows] == [(way, batch, 24 // batch, 2) for way in ways]
    assert all(row.bare_ms > 0 and row.ours_ms > 0 and row.quartiles[0] <= row.overhead <= row.quartiles[1] for row in rows)
    kinds = Counter((model, count, tuple(outputs)) for model, count, outputs in server.requests)
    assert kinds == {("painted_segment", batch, ("LABELS", "PROBABILITIES")): len(ways) * 3 * 2 * (24 // batch)}


def test_the_window_is_filled_though_the_tiles_are_few() -> None:
    config = OverheadConfig(model="painted", tiles=1, in_flight=3, pairs=2)
    with PaintedTriton(contract()) as server:
        (row,) = measure_batch(server.address, config, 2)
    assert row.requests == 3


def test_help_names_the_window(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "--in-flight" in capsys.readouterr().out


def test_a_repository_that_is_missing_is_told(tmp_path: Path) -> None:
    from serving.errors import ServingError

    with pytest.raises(ServingError, match="absent"):
        main(["--repository", str(tmp_path / "absent"), "--pairs", "2"])
