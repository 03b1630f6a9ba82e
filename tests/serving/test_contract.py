"""The contract: round trips for every task, and a message for every way it can be wrong."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.contract import (
    BackgroundRule,
    Contract,
    ContractError,
    Normalization,
    TissueClass,
    TissueTask,
    task_from_dict,
    task_to_dict,
)
from serving.tasks import TASKS, get_task

DEMO = get_task("demo")
CONTRACT = Contract(DEMO, "segment", "pscl", 4, release="demo_r3_segment", slide_model="demo_r3_segment_slide")

colors = st.tuples(*[st.integers(0, 255)] * 3)
names = st.text(min_size=1, max_size=20)
fractions = st.floats(0.01, 1)
classes = st.lists(st.builds(TissueClass, names, colors), min_size=1, max_size=6, unique_by=lambda tissue: tissue.name).map(tuple)
tasks = classes.flatmap(
    lambda some: st.builds(
        TissueTask,
        name=names,
        classes=st.just(some),
        mpp=st.floats(0.05, 20),
        tile_px=st.sampled_from([32, 224, 256, 512]),
        normalization=st.builds(Normalization, st.tuples(fractions, fractions, fractions), st.tuples(fractions, fractions, fractions)),
        background=st.none() | st.builds(BackgroundRule, st.integers(0, 255), st.integers(0, 5000)),
        label_encoding=st.lists(st.tuples(st.integers(0, 255), st.integers(0, len(some))), max_size=8).map(tuple),
    )
)


@given(task=tasks, kind=st.sampled_from(["segment", "cam"]), method=names, cell_px=st.sampled_from([1, 2, 4, 8, 16, 32]))
def test_every_contract_survives_its_parameters(task: TissueTask, kind: str, method: str, cell_px: int) -> None:
    contract = Contract(task, "segment" if kind == "segment" else "cam", method, cell_px, "r", "s")
    parameters = contract.to_parameters()
    assert Contract.from_parameters(parameters) == contract
    assert all(isinstance(value, str) for value in parameters.values())


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_shipped_tasks_survive_json(task: TissueTask) -> None:
    assert task_from_dict(json.loads(json.dumps(task_to_dict(task)))) == task


def test_other_parameters_beside_it_are_ignored() -> None:
    assert Contract.from_parameters(CONTRACT.to_parameters() | {"somebody": "else's"}) == CONTRACT


def test_grid() -> None:
    assert CONTRACT.grid_cells == 56


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"histoserve.contract": None}, "was not exported by histoserve"),
        ({"histoserve.contract": "2"}, "expected contract version 1, got 2"),
        ({"histoserve.mpp": None}, "expected the parameter histoserve.mpp"),
        ({"histoserve.classes": "[{"}, "expected JSON"),
        ({"histoserve.classes": '[{"name": "a"}]'}, "expected the field 'color'"),
        ({"histoserve.classes": "[]"}, "expected 1…254 classes"),
        ({"histoserve.kind": "mask"}, "expected kind 'segment' or 'cam', got 'mask'"),
        ({"histoserve.cell_px": "3"}, "expected cell_px to be a power of two that divides 224, got 3"),
        ({"histoserve.mpp": "[]"}, "a field is malformed"),
    ],
)
def test_parameters_that_carry_no_contract_are_refused(change: dict[str, str | None], message: str) -> None:
    changed = {key: value for key, value in (CONTRACT.to_parameters() | change).items() if value is not None}
    with pytest.raises(ContractError) as raised:
        Contract.from_parameters(changed)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mpp": 0.01}, "expected mpp within 0.05…20"),
        ({"tile_px": 100}, "positive multiple of 32, got 100"),
        ({"label_encoding": ((0, 5),)}, "label_encoding maps outside 0…4"),
        ({"classes": (TissueClass("a", (0, 0, 0)), TissueClass("a", (1, 1, 1)))}, "classes with different names"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ContractError) as raised:
        dataclasses.replace(DEMO, **change)  # type: ignore[arg-type]
    assert message in str(raised.value)


def test_colors_and_names_are_checked() -> None:
    with pytest.raises(ContractError, match="three values 0…255"):
        TissueClass("tumor", (0, 0, 256))
    with pytest.raises(ContractError, match="expected a name"):
        TissueClass("", (0, 0, 0))


def test_an_unknown_task_lists_those_there_are() -> None:
    with pytest.raises(ContractError, match="unknown task 'brain': expected one of bcss, demo, glas, luad, osteosarcoma, wsss4luad"):
        get_task("brain")
