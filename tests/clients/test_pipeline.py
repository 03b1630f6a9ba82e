"""The stages: they overlap, wait for each other, fill the last batch up, and end together with the first error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clients.errors import SlideError
from clients.mirror import read_mirrored
from clients.pipeline import LabelStrips, Plan, label_strips
from clients.tiling import make_grid

from .painted import TILE_PX, Labels, Rgb, contract, paint
from .painted_model import PaintedModel

HEIGHT, WIDTH = 300, 260
LABELS: Labels = np.random.default_rng(0).integers(1, 5, (HEIGHT // 20, WIDTH // 20), dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)


def make_plan(read: Callable[[int, int], None] = lambda x_m, y_m: None, **changed: Any) -> Plan:
    rgb = paint(LABELS)
    grid = make_grid(WIDTH, HEIGHT, TILE_PX, 4, 0.25)

    def read_tile(x_m: int, y_m: int) -> Rgb:
        read(x_m, y_m)
        return read_mirrored(lambda x0, y0, x1, y1: rgb[y0:y1, x0:x1], (WIDTH, HEIGHT), x_m, y_m, TILE_PX, TILE_PX)

    places = [(row, column) for row in range(grid.rows) for column in range(grid.columns)]
    given: dict[str, Any] = {"places": places, "batch": 4, "in_flight": 2, "strip_px": 64, "batches_ahead": 2, "pad": True}
    return Plan(read_tile, WIDTH, HEIGHT, grid, **(given | changed))


def labels_of(plan: Plan, model: PaintedModel) -> Labels:
    return np.concatenate([labels for _, labels in label_strips(plan, model, lambda done, total: None)])


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in ("read tiles", "send tiles")]


def test_threads_and_padding_change_no_label() -> None:
    alone = labels_of(make_plan(batches_ahead=0, pad=False), PaintedModel())
    for batch in (1, 4, 7, 8):
        model = PaintedModel()
        np.testing.assert_array_equal(labels_of(make_plan(batch=batch), model), alone)
        assert {shape[0] for shape in model.shapes} == {batch}
    assert our_threads() == []


def test_without_padding_the_last_batch_is_short() -> None:
    model = PaintedModel()
    labels_of(make_plan(pad=False, batch=8), model)
    assert len(model.sent) == len(make_plan().places)
    assert {shape[0] for shape in model.shapes} == {8, len(model.sent) % 8}


@pytest.mark.parametrize("start", range(1, 5))
def test_strips_go_on_from_any_state(start: int) -> None:
    plan = make_plan()
    whole = LabelStrips(plan, PaintedModel(), lambda done, total: None)
    strips = []
    for y_m, labels in whole:
        strips.append((y_m, labels))
        if len(strips) == start:
            state = {name: array.copy() for name, array in whole.state().items()}
    done: list[int] = []
    rest = LabelStrips(plan, PaintedModel(), lambda tiles, total: done.append(tiles), state)
    for (y_m, labels), (expected_y_m, expected) in zip(rest, strips[start:], strict=True):
        assert y_m == expected_y_m
        np.testing.assert_array_equal(labels, expected)
    assert done[0] == rest.kept_tiles > 0
    assert done[-1] == len(plan.places)


def test_a_reader_s_error_ends_the_run_with_its_own_reason() -> None:
    def damaged(x_m: int, y_m: int) -> None:
        if y_m > 100:
            raise SlideError("s.svs: the tile is damaged")

    with pytest.raises(SlideError, match=r"s\.svs: the tile is damaged"):
        labels_of(make_plan(damaged), PaintedModel())
    assert our_threads() == []


def test_a_model_s_error_does_so_too_while_the_reader_waits_for_room() -> None:
    def fail(number: int) -> None:
        if number == 2:
            time.sleep(0.05)  # the reader has filled its queue
            raise RuntimeError("the network is gone")

    with pytest.raises(RuntimeError, match="the network is gone"):
        labels_of(make_plan(), PaintedModel(before_batch=fail))
    assert our_threads() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_error_of_whoever_takes_the_strips_ends_the_threads(error: type[BaseException]) -> None:
    def take() -> None:
        for y_m, _ in label_strips(make_plan(), PaintedModel(), lambda done, total: None):
            if y_m >= 64:
                raise error

    with pytest.raises(error):
        take()
    assert our_threads() == []


def test_whoever_is_slow_holds_back_all_before_it() -> None:
    read: list[int] = []
    plan = make_plan(lambda x_m, y_m: read.append(1), batch=1)
    answered = 0
    most_ahead = 0

    def slow(done: int, total: int) -> None:
        nonlocal answered, most_ahead
        time.sleep(0.01)
        answered = done
        most_ahead = max(most_ahead, len(read) - answered)

    list(label_strips(plan, PaintedModel(), slow))
    # Two queues of two, one item in each thread's hands, one in ours.
    assert most_ahead <= 2 * plan.batches_ahead + 3
    assert answered == len(plan.places)


def test_tiles_are_read_before_the_turn_comes_and_sent_when_it_does() -> None:
    read = threading.Event()
    turn = threading.Lock()
    model = PaintedModel()
    plan = make_plan(lambda x_m, y_m: read.set())
    with turn:
        thread = threading.Thread(target=lambda: list(LabelStrips(plan, model, lambda done, total: None, None, turn)))
        thread.start()
        assert read.wait(10)
        time.sleep(0.05)
        assert model.sent == []
    thread.join(20)
    assert len(model.sent) >= len(plan.places)
    assert not turn.locked()


def test_the_turn_is_given_back_with_the_last_tile_not_with_the_last_strip() -> None:
    turn = threading.Lock()
    plan = make_plan(strip_px=16, batches_ahead=100)  # all answers have room: nothing is sent that waits for us
    y_m, _ = next(iter(LabelStrips(plan, PaintedModel(), lambda done, total: None, None, turn)))
    assert y_m == 0
    assert turn.acquire(timeout=60)


@pytest.mark.parametrize("fails_at", ["read", "send"])
def test_an_error_gives_the_turn_back(fails_at: str) -> None:
    turn = threading.Lock()

    def fail(*arguments: int) -> None:
        raise RuntimeError("no")

    plan = make_plan(fail) if fails_at == "read" else make_plan()
    model = PaintedModel() if fails_at == "read" else PaintedModel(before_batch=fail)
    with pytest.raises(RuntimeError, match="no"):
        list(LabelStrips(plan, model, lambda done, total: None, None, turn))
    assert not turn.locked()


def test_no_tile_at_all_needs_no_model() -> None:
    model = PaintedModel(contract(rule=None))
    assert not labels_of(make_plan(places=[]), model).any()
    assert model.sent == []
