"""Models of every method, trained for seconds, through export and Triton: the served figure is torch's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.tasks import get_task
from training.patches import save_mask, write_patches
from training.tissue.patch import draw_labels
from training.tissue.render import render

from .conftest import histoserve

pytestmark = pytest.mark.triton
SMALL = [
    *("--task", "demo", "--tile-px", "128", "--encoder", "test_resnet", "--cam-stages", "2", "--decoder-stages", "1", "2"),
    *("--decoder-width", "16", "--mosaic.grid", "2", "2", "--mosaic.piece-px", "64", "--mosaic.count", "16"),
    *("--refinement.stages", "2", "3", "--refinement.reductions", "8", "8", "--mutual.samples", "8"),
    *(
        flag
        for stage in ("stage1", "stage2", "preliminary", "refinement.schedule")
        for flag in (f"--{stage}.optimizer", "adamw", f"--{stage}.learning-rate", "0.003", f"--{stage}.batch", "8", f"--{stage}.steps", "8")
    ),
]
METHODS = {
    "pistoseg": ["--decoder", "unetplusplus", "--segment.loss", "binary_cross_entropy"],
    "arml": ["--decoder", "pspnet", "--keep", "mean"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`patches` to train on, and annotated `crops` larger than a tile, of no whole number of tiles."""
    folder = tmp_path_factory.mktemp("data")
    write_patches(folder / "patches", 32, seed=3, processes=1)
    for name in ("img", "mask"):
        (folder / "crops" / name).mkdir(parents=True)
    for index in range(3):
        labels = draw_labels(np.random.default_rng(index), 300)
        Image.fromarray(render(labels, index)).save(folder / "crops" / "img" / f"{index}.png")
        save_mask(folder / "crops" / "mask" / f"{index}.png", labels, [tissue.color for tissue in get_task("demo").classes])
    return folder


def evaluated(*flags: str | Path) -> dict[str, Any]:
    done = histoserve("evaluate", *flags, "--json")
    assert done.returncode == 0, done.stderr
    scores: dict[str, Any] = json.loads(done.stdout)
    return scores


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_served_model_scores_as_the_checkpoint(method: str, data: Path, tmp_path: Path) -> None:
    trained = histoserve("train", "--method", method, "--data", data / "patches", "--output", tmp_path / "run", *SMALL, *METHODS[method])
    assert trained.returncode == 0, trained.stderr
    checkpoint, repository = tmp_path / "run" / "checkpoint.pt", tmp_path / "repository"
    exported = histoserve("export", checkpoint, "--repository", repository, "--name", method)
    assert exported.returncode == 0, exported.stderr
    for kind in ("segment", "cam"):
        by_torch = evaluated("--checkpoint", checkpoint, "--kind", kind, "--data", data / "crops")
        served = evaluated("--served", f"{method}_{kind}", "--repository", repository, "--data", data / "crops")
        assert served["miou"] == pytest.approx(by_torch["miou"], abs=1e-3)
        assert sum(map(sum, served["images"]["0"])) == 300 * 300
