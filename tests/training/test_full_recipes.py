"""The full-size recipes of the papers' sets, each run on a tiny tree of that format: the recipe's own method, losses, decoders and mosaics on small encoders."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from tests.training.datasets.trees import put_image
from training.checkpoint import load
from training.recipe import expand_recipes
from training.train import train
from training.train_config import TrainConfig

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[2] / "training" / "recipes"
FULL = [FOLDER / f"{task}_{method}.toml" for task in ("bcss", "luad", "wsss4luad") for method in ("pscl", "pistoseg", "arml")]
NAMES = {
    "bcss": ("training", "TCGA-A1-A0SK-DX1_xmin{index}_ymin25055_MPP-0.2500+{index}[{digits}].png", "", 4),
    "luad": ("training", "{index}-2300-27920-[{digits}].png", " ", 4),
    "wsss4luad": ("1.training", "{index}-9328-56427-[{digits}].png", ", ", 3),
}
# What makes a run small: networks and steps. Everything else is the recipe's.
SMALL = [
    *("--no-pretrained", "--encoder", "test_resnet", "--segment-encoder", "test_resnet", "--preliminary-encoder", "test_resnet"),
    *("--cam-stages", "2", "--decoder-width", "32", "--mosaic.count", "4"),
    *("--refinement.stages", "2", "3", "--refinement.cam-stage", "3", "--refinement.reductions", "8", "8"),
    *(
        f
        for stage in ("stage1", "stage2", "preliminary", "refinement.schedule")
        for f in (f"--{stage}.steps", "1", f"--{stage}.batch", "2")
    ),
]
DECODER_STAGES = {"pscl": ["1", "2", "3", "4"], "pistoseg": ["0", "1", "2", "3"], "arml": ["1"]}


def write_tree(folder: Path, data_format: str) -> None:
    """A patch of each class alone, and one of all."""
    place, name, between, classes = NAMES[data_format]
    labels = [[int(one == other) for other in range(classes)] for one in range(classes)] + [[1] * classes]
    for index, digits in enumerate(labels):
        put_image(folder / place / name.format(index=index, digits=between.join(map(str, digits))), 224, 224, seed=index)


@pytest.mark.parametrize("recipe", FULL, ids=lambda path: path.stem)
def test_runs_on_a_tree_as_published(recipe: Path, tmp_path: Path) -> None:
    data_format, method = recipe.stem.split("_")
    write_tree(tmp_path / "data", data_format)
    flags = [f"@{recipe}", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "run")]
    config = tyro.cli(TrainConfig, args=expand_recipes([*flags, *SMALL, "--decoder-stages", *DECODER_STAGES[method]]))
    checkpoint = load(train(config))
    assert (checkpoint.method, checkpoint.task.name, checkpoint.task.tile_px) == (method, data_format, 224)
    assert checkpoint.cam_network is not None
    assert checkpoint.segment_network is not None
    masks = sorted(path.stem for path in (tmp_path / "run" / "pseudo_masks").glob("*.png"))
    assert len(masks) == NAMES[data_format][3] + 1


def test_every_method_has_a_recipe_for_every_set_of_the_papers() -> None:
    assert all(path.is_file() for path in FULL)
