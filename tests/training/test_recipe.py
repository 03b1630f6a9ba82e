from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from training.errors import RecipeError
from training.pretrain import PretrainConfig
from training.recipe import expand_recipes
from training.train_config import TrainConfig

FOLDER = Path(__file__).parents[2] / "training" / "recipes"
RECIPES = sorted(path for path in FOLDER.glob("*.toml") if path.stem != "pretrain")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_parse_and_the_user_s_flags_win(recipe: Path) -> None:
    arguments = expand_recipes(["--seed", "7", f"@{recipe}", "--data", "d", "--output", "o", "--stage1.epochs", "3"])
    config = tyro.cli(TrainConfig, args=arguments)
    assert (config.seed, config.stage1.epochs, config.data) == (7, 3, Path("d"))


def test_the_pretraining_recipe_parses() -> None:
    config = tyro.cli(PretrainConfig, args=expand_recipes([f"@{FOLDER / 'pretrain.toml'}", "--data", "d", "--output", "o"]))
    assert (config.schedule.batch, config.schedule.epochs, config.inter_weight) == (6, 20, 0.5)


def test_booleans_lists_and_tables_become_flags(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('pretrained = true\ncam_stages = [1, 2]\n[pscl]\nbackground = "none"\nalone = true\ngate = "none"\n')
    config = tyro.cli(TrainConfig, args=expand_recipes([f"@{recipe}", "--data", "d", "--output", "o"]))
    assert config.pretrained
    assert config.cam_stages == (1, 2)
    assert (config.pscl.background, config.pscl.gate, config.pscl.alone) == ("none", "none", True)


def test_recipe_errors(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.toml: expected a TOML file"):
        expand_recipes(["@absent.toml"])
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(RecipeError, match=r"bad\.toml: expected TOML"):
        expand_recipes([f"@{tmp_path / 'bad.toml'}"])
