"""PSCL (thesis chapter 4) as stages: classifier with the contrastive term → pseudo-masks → segmenter. With weight 0 the plain baseline."""

from __future__ import annotations

from torch import nn

from .classifier import Classifier
from .steps import Run, classify, segment, write_cam_masks

HAS_BACKGROUND = True  # METHODS: K = C + 1, 0 = background


def train_pscl(run: Run) -> tuple[Classifier, nn.Module]:
    """Both networks."""
    first, classifier = classify(run, run.config.pscl)
    stages, targets = write_cam_masks(run, first, classifier)
    return classifier, segment(run, targets, stages, HAS_BACKGROUND, start=classifier)
