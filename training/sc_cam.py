"""SC-CAM (Chang et al. 2020) as stages: classifier → rounds of clustering and learning sub-categories → pseudo-masks → segmenter."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from torch import nn

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .classifier import Classifier
from .fitting import fit, total_steps
from .patch_dataset import PatchDataset
from .pscl import HAS_BACKGROUND
from .stage_one import PsclOptions
from .stages import Stage
from .steps import Run, classify, do_or_load, make_classifier, segment, write_cam_masks
from .subcategory import SubcategoryDataset, SubcategoryStage, cluster_subcategories, pooled_features

import lightning  # isort: skip


def train_sc_cam(run: Run) -> tuple[Classifier, nn.Module]:
    """The classifier of the last round, and the segmenter."""
    stage, classifier = classify(run, PsclOptions(weight=0))
    for number in range(1, run.config.subcategory.rounds + 1):
        stage, classifier = _round(run, number, stage, classifier)
    stages, targets = write_cam_masks(run, stage, classifier)
    return classifier, segment(run, targets, stages, HAS_BACKGROUND, start=classifier)


def _round(run: Run, number: int, before: Stage, teacher: Classifier) -> tuple[Stage, Classifier]:
    """Cluster the teacher's features, train a fresh classifier on classes and sub-categories."""
    config, options = run.config, run.config.subcategory
    stage = run.stage(f"subcategories{number}", {"subcategory": dataclasses.asdict(options) | {"rounds": None}}, [before])

    def train(folder: Path) -> Classifier:
        plain = PatchDataset(run.samples, run.task, augmentation=None, seed=0)
        labels = np.array([sample.labels for sample in run.samples])
        sub_labels = cluster_subcategories(pooled_features(teacher, plain), labels, options.per_class, config.seed)
        lightning.seed_everything(config.seed + number, verbose=False)
        network = make_classifier(run)
        dataset = SubcategoryDataset(PatchDataset(run.samples, run.task, config.augmentation, config.seed + number), sub_labels)
        steps = total_steps(len(dataset), config.stage1, "stage1")
        module = SubcategoryStage(network, run.task, config.stage1, sub_labels.shape[1], steps, options.weight)
        fit(module, dataset, config.stage1, folder, config.machine)
        return network

    return stage, do_or_load(stage, train)
