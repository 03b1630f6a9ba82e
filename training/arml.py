"""ARML (Feng et al. 2024) as stages: classifier with relocalized activations → pseudo-masks → three networks that learn from each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .classifier import Classifier
from .fitting import fit, total_steps
from .mean_segmenter import MeanSegmenter
from .mutual import MutualLearning
from .patch_dataset import PatchDataset, PatchSample
from .stage_one import PsclOptions
from .stages import Stage
from .steps import Run, classify, do_or_load, make_segmenter, segmenter_config, write_cam_masks

import lightning  # isort: skip

HAS_BACKGROUND = False  # METHODS: C channels
_NETWORKS = 3
_SEED_STRIDE = 1_000  # between the three networks' seeds


def train_arml(run: Run) -> tuple[Classifier, nn.Module]:
    """The classifier, and one of the three segmenters or their mean."""
    first, classifier = classify(run, PsclOptions(weight=0), run.config.relocalize)
    stages, targets = write_cam_masks(run, first, classifier)
    return classifier, learn_mutually(run, targets, stages, classifier)


def learn_mutually(run: Run, targets: Sequence[PatchSample], needs: Sequence[Stage], start: Classifier) -> nn.Module:
    """The networks, trained together on the same pseudo-masks; which of them is the result is no setting of the stage, all are kept."""
    config, task = run.config, run.task
    shape = segmenter_config(run, config.segment_encoder, HAS_BACKGROUND)
    schedule = config.stage2
    settings = {"network": dataclasses.asdict(shape), "schedule": dataclasses.asdict(schedule), "mutual": dataclasses.asdict(config.mutual)}
    stage = run.stage("stage2", settings, needs)

    def train(folder: Path) -> MeanSegmenter:
        networks = []
        for index in range(1 if config.mutual.one_network else _NETWORKS):
            lightning.seed_everything(config.seed + 1 + index * _SEED_STRIDE, verbose=False)
            networks.append(make_segmenter(run, shape, start))
        dataset = PatchDataset(targets, task, config.augmentation, config.seed + 1)
        module = MutualLearning(networks, task, schedule, config.mutual, total_steps(len(dataset), schedule, "stage2"), config.seed)
        fit(module, dataset, schedule, folder, config.machine)
        return MeanSegmenter(networks)

    all_three = do_or_load(stage, train)
    return all_three if config.keep == "mean" and len(all_three.networks) > 1 else all_three.networks[0]
