"""Stages of a run: what is done stays done, what changed is done anew with all behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.errors import RecipeError
from training.stages import Stage, make_stage


def chain(output: Path, rate: float = 0.1, loss: str = "ce", data: str = "a") -> list[Stage]:
    first = make_stage(output, "classify", {"rate": rate, "weights": Path("/somewhere") / data, "stages": (2, 3)})
    second = make_stage(output, "masks", {"flips": True}, [first])
    return [first, second, make_stage(output, "segment", {"loss": loss}, [second])]


def run(stages: list[Stage]) -> list[str]:
    worked = []
    for stage in stages:
        if not stage.is_done:
            with stage.work() as folder:
                (folder / "result").write_text(stage.name)
            worked.append(stage.name)
    return worked


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    assert run(chain(tmp_path)) == ["classify", "masks", "segment"]
    assert run(chain(tmp_path)) == []
    assert (tmp_path / "masks" / "result").read_text() == "masks"


def interrupted(stage: Stage) -> None:
    with stage.work() as folder:
        (folder / "last.ckpt").write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({"rate": 0.2}, ["classify", "masks", "segment"]), ({"loss": "nr"}, ["segment"]), ({"data": "b"}, ["classify", "masks", "segment"])],
)
def test_a_changed_setting_redoes_its_stage_and_all_behind_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], expected: list[str]
) -> None:
    run(chain(tmp_path))
    (tmp_path / expected[0] / "left over").write_text("")
    assert run(chain(tmp_path, **changed)) == expected  # type: ignore[arg-type]
    assert not (tmp_path / expected[0] / "left over").exists()
    name = {"rate": "rate", "loss": "loss", "data": "weights"}[next(iter(changed))]
    assert f"{expected[0]}: {name} changed: done anew" in capsys.readouterr().err


def test_where_a_file_lies_is_no_setting(tmp_path: Path) -> None:
    run([make_stage(tmp_path, "classify", {"weights": Path("/a/w.pt")})])
    assert make_stage(tmp_path, "classify", {"weights": Path("/b/w.pt")}).is_done


def test_an_interrupted_stage_keeps_what_it_has_and_its_time(tmp_path: Path) -> None:
    stage = chain(tmp_path)[0]
    with pytest.raises(KeyboardInterrupt):
        interrupted(stage)
    assert not stage.is_done
    noted = json.loads((tmp_path / "classify" / "stage.json").read_text())
    assert noted["done"] is False
    (tmp_path / "classify" / "stage.json").write_text(json.dumps(noted | {"seconds": 100.0}))
    with stage.work() as folder:
        assert (folder / "last.ckpt").read_text() == "half"
    assert stage.seconds is not None
    assert stage.seconds >= 100


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "classify").mkdir()
    (tmp_path / "classify" / "thesis.txt").write_text("my only copy")
    with pytest.raises(RecipeError, match="found other files: choose another --output"), chain(tmp_path)[0].work():
        pass
    assert (tmp_path / "classify" / "thesis.txt").exists()
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "stage.json").write_text("{")
    with pytest.raises(RecipeError, match="cannot read it: remove"):
        _ = chain(tmp_path)[1].is_done
