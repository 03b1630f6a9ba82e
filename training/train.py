"""A recipe from a folder of patches to a checkpoint. Knows which method is which; each lives in its own module."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from . import arml, mlps, pistoseg, pscl, sc_cam
from .checkpoint import Checkpoint, save
from .classifier import Classifier
from .segmenter import Segmenter
from .stages import plain
from .steps import Run, segment, segmenter_config, start_run
from .train_config import Method, TrainConfig, chosen_task, read_records

CHECKPOINT_FILE = "checkpoint.pt"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A method.

    Attributes:
        train: both networks of a run.
        has_background: of its segmenter.
    """

    train: Callable[[Run], tuple[Classifier, nn.Module]]
    has_background: bool


METHODS: dict[Method, Recipe] = {
    "pscl": Recipe(pscl.train_pscl, pscl.HAS_BACKGROUND),
    "pistoseg": Recipe(pistoseg.train_pistoseg, pistoseg.HAS_BACKGROUND),
    "arml": Recipe(arml.train_arml, arml.HAS_BACKGROUND),
    "sc_cam": Recipe(sc_cam.train_sc_cam, pscl.HAS_BACKGROUND),
    "mlps": Recipe(mlps.train_mlps, mlps.HAS_BACKGROUND),
}


def train(config: TrainConfig) -> Path:
    """Train every stage that is not done; returns the checkpoint's path.

    Raises:
        TrainingError: data, recipe or encoder cannot be used.
    """
    task = chosen_task(config)
    run = start_run(config, task, read_records(config, task))
    recipe = METHODS[config.method]
    # Stages and decoder that do not fit each other: known now, not when stage 1 is trained.
    Segmenter(segmenter_config(run, config.segment_encoder, recipe.has_background))
    path = config.output / CHECKPOINT_FILE
    if config.supervised:
        segmenter: nn.Module = segment(run, run.samples, [], recipe.has_background)
        save(path, Checkpoint(task, "supervised", None, segmenter, _provenance(run)))  # type: ignore[arg-type]
        return path
    classifier, segmenter = recipe.train(run)
    save(path, Checkpoint(task, config.method, classifier, segmenter, _provenance(run)))  # type: ignore[arg-type]
    return path


def _provenance(run: Run) -> dict[str, Any]:
    config = run.config
    names = ["histoserve", "torch", "timm", "lightning", "pytorch-metric-learning"]
    names += ["transformers"] if config.decoder == "mask2former" else []
    names += ["segmentation-models-pytorch"] if config.decoder in ("unetplusplus", "pspnet") else []
    seconds = {stage.name: stage.seconds or 0.0 for stage in run.stages}
    return {
        "command": sys.argv[1:],
        "versions": {name: importlib.metadata.version(name) for name in names},
        "recipe": {key: plain(value) for key, value in dataclasses.asdict(config).items()},
        "patches": len(run.samples),
        "stages": seconds,
        "seconds": round(sum(seconds.values()), 1),
    }
