"""A study on generated crops through the real commands (in this process, to be quick): folds, rows, table, and going on where it stopped."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tyro

import benchmarks.study
import histoserve
import training.cli
from benchmarks.errors import CommandError, EvaluationError
from benchmarks.own_command import ask_histoserve, run_histoserve
from benchmarks.study import StudyConfig, _recipe_of, run_study
from benchmarks.study_plan import ROWS, VARIANTS
from benchmarks.study_table import render_table
from serving.tasks import get_task
from training.patches import save_mask
from training.recipe import expand_recipes
from training.tissue.patch import draw_labels
from training.tissue.render import render
from training.train_config import TrainConfig

pytestmark = pytest.mark.slow

RECIPE = """
task = "demo"
encoder = "test_resnet"
cam_stages = [2]
decoder_stages = [1, 2]
decoder = "fpn"
decoder_width = 8
[stage1]
optimizer = "adamw"
batch = 4
steps = 2
[stage2]
batch = 4
steps = 2
[pscl]
max_vectors = 32
"""


def write_crops(folder: Path, count: int) -> Path:
    from PIL import Image

    for name in ("img", "mask"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        labels = draw_labels(np.random.default_rng(index), 192)
        Image.fromarray(render(labels, index)).save(folder / "img" / f"{index:02}.png")
        save_mask(folder / "mask" / f"{index:02}.png", labels, [tissue.color for tissue in get_task("demo").classes])
    return folder


def in_process(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as exit_info:
        histoserve.main(arguments)
    if exit_info.value.code:
        raise CommandError(" ".join(arguments))
    return printed.getvalue()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that were run; two variants keep the test short."""
    ran: list[str] = []

    def recorded(*arguments: str) -> str:
        ran.append(arguments[0])
        return in_process(*arguments)

    monkeypatch.setattr(benchmarks.study, "run_histoserve", recorded)
    monkeypatch.setattr(benchmarks.study, "ask_histoserve", recorded)
    oracle = "PSCL, CAM, true image labels (oracle)"
    kept = {name: ROWS[name] for name in ("PSCL, CAM", oracle, "PSCL, stage 2", "supervised")}
    monkeypatch.setattr(benchmarks.study, "ROWS", kept)
    return ran


def test_every_image_is_judged_by_the_run_that_did_not_see_it(tmp_path: Path, commands: list[str]) -> None:
    data = write_crops(tmp_path / "crops", 12)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    config = StudyConfig(
        data=data,
        output=tmp_path / "study",
        recipe=recipe,
        folds=2,
        seeds=(0,),
        patch_px=96,
        stride_px=96,
        tile_px=96,
        task="demo",
        variants=("pscl", "supervised"),
    )
    study = run_study(config)
    assert commands.count("patches") == 2
    assert commands.count("train") == 4
    assert commands.count("evaluate") == 2 * 4
    assert study["training"]["pscl"]["seconds"] > 0 < study["training"]["supervised"]["parameters"]
    own, oracle = (np.array(study["rows"][name]) for name in ("PSCL, CAM", "PSCL, CAM, true image labels (oracle)"))
    assert (own != oracle).any()
    assert study["images"] == [f"{index:02}" for index in range(12)]
    for values in study["rows"].values():
        assert np.array(values).shape == (1, 12, 5, 5)
        assert np.array(values).sum() == 12 * 192 * 192
    for fold in range(2):
        split = json.loads((tmp_path / "study" / f"patches-fold{fold}" / "split.json").read_text())
        evaluated = json.loads((tmp_path / "study" / f"pscl-fold{fold}-seed0" / "segment.json").read_text())["images"]
        assert sorted(evaluated) == sorted(Path(name).stem for name in split["test"])
        assert not set(split["test"]) & set(split["train"])
    assert np.array(study["pseudo_masks"]["pscl"]).sum() > 0
    done = len(commands)
    assert run_study(config) == study
    assert len(commands) == done
    (tmp_path / "study" / "pscl-fold1-seed0" / "segment.json").unlink()
    assert run_study(config) == study
    assert commands[done:] == ["evaluate"]


def test_the_table_leads_with_the_main_classes_and_shows_paired_differences() -> None:
    def confusion(wrong: int) -> list[list[int]]:
        return [[50, 0, 0, 0], [0, 100 - wrong, wrong, 0], [0, wrong, 100 - wrong, 0], [0, 0, 0, 10]]

    rows = {
        "classification, CAM": [[confusion(40), confusion(30)]],
        "PSCL, CAM": [[confusion(30), confusion(20)]],
    }
    pseudo = {"pscl": confusion(10)}
    training = {"pscl": {"seconds": 61.4, "parameters": 2_340_000}}
    study = {"classes": ["tumor", "stroma", "normal"], "rows": rows, "pseudo_masks": pseudo, "training": training}
    table = render_table(study, ["tumor", "stroma"])
    assert "| pscl | 61 | 2.34 M |" in table
    assert "| PSCL, CAM | masked | 0.600 | 0.600 | 0.600 | 1.000 |" in table
    assert "| pseudo-masks of pscl (training patches) | masked | 0.818 |" in table
    assert "| PSCL, CAM − classification, CAM | +11.9 | " in table
    assert "mIoU of tumor and stroma" in table


def test_a_command_that_fails_stops_the_study(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"`histoserve evaluate --mask .*` ended with exit code 1"):
        ask_histoserve("evaluate", "--mask", str(tmp_path / "none.ome.zarr"), "--truth", str(tmp_path / "t.png"))
    with pytest.raises(CommandError, match="ended with exit code 2"):
        run_histoserve("paint")


def test_a_method_s_recipe_lies_beside_the_study_s(tmp_path: Path) -> None:
    folder = Path(benchmarks.study.__file__).parents[1] / "training" / "recipes"
    for method in ("pistoseg", "arml"):
        assert _recipe_of(folder / "wsss4luad-small_pscl.toml", method) == folder / f"wsss4luad-small_{method}.toml"
    (tmp_path / "set_pscl.toml").write_text("")
    with pytest.raises(EvaluationError, match=r"expected set_arml\.toml beside it for variant 'arml', found none"):
        _recipe_of(tmp_path / "set_pscl.toml", "arml")


def test_an_unknown_variant_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"expected some of classification, pscl, .*, got pcsl"):
        StudyConfig(data=tmp_path, output=tmp_path, recipe=tmp_path, variants=("pscl", "pcsl"))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_is_a_command_that_train_understands(name: str) -> None:
    """Its recipe and flags parse, and say something else than the recipe alone."""
    variant = VARIANTS[name]
    recipe = Path(training.cli.__file__).parent / "recipes" / f"demo-small_{variant.method or 'pscl'}.toml"
    plain, config = (
        tyro.cli(TrainConfig, args=expand_recipes([f"@{recipe}", "--data", "data", "--output", "out", *flags]))
        for flags in ((), variant.flags)
    )
    assert (config != plain) == bool(variant.flags)
