"""PistoSeg (Fang et al. 2023) as stages: classifier → mosaics → preliminary segmenter → refinement → pseudo-masks → precise segmenter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .classifier import Classifier
from .fitting import fit, total_steps
from .mosaic_files import write_mosaics
from .mosaic_sheet import write_contact_sheet
from .patch_dataset import PatchDataset, PatchSample
from .pseudomask import ScoredMaps
from .refine_stage import MapsOf, RefineInputs, RefineStage, cam_of, probabilities_of, refined_maps
from .refinement import RefinementConfig, RefinementNet
from .stage_one import PsclOptions
from .stages import Stage
from .steps import Run, classify, do_or_load, segment, segmenter_config, train_segmenter, write_masks

import lightning  # isort: skip

HAS_BACKGROUND = False  # METHODS: C channels, truth background ignored in the loss
SHEET_FILE = "sheet.png"


def train_pistoseg(run: Run) -> tuple[Classifier, nn.Module]:
    """The classifier behind M_CAM, and the precise segmenter."""
    first, classifier = classify(run, PsclOptions(weight=0))
    mosaics, synthesized = synthesize(run)
    config = run.config
    shape = segmenter_config(run, config.preliminary_encoder or config.segment_encoder, HAS_BACKGROUND)
    preliminary = train_segmenter(run, "preliminary", shape, synthesized, [mosaics], config.preliminary)
    stage = run.stages[-1]
    # The preliminary network's logits are what its loss took them for.
    activation: Literal["sigmoid", "softmax"] = "sigmoid" if config.segment.loss == "binary_cross_entropy" else "softmax"
    pseudo = probabilities_of(preliminary, run.task, activation)
    if config.refine.output == "none":
        maps = _scored(pseudo)
    else:
        inputs = RefineInputs(pseudo, cam_of(classifier, run.task, config.refine.cam))
        stage, maps = refine(run, [first, stage], inputs)
    masks, targets = write_masks(run, stage, maps, {"refined": config.refine.output})
    return classifier, segment(run, targets, [masks], HAS_BACKGROUND)


def synthesize(run: Run) -> tuple[Stage, list[PatchSample]]:
    """The mosaics with their masks, and a sheet of them to look at."""
    options = dataclasses.replace(run.config.mosaic, seed=run.config.seed)
    stage = run.stage("mosaics", {"mosaic": dataclasses.asdict(options)})
    if stage.is_done:
        return stage, write_mosaics(run.samples, run.task, stage.folder, options)
    with stage.work() as folder:
        samples = write_mosaics(run.samples, run.task, folder, options)
        write_contact_sheet(samples, run.task, folder / SHEET_FILE)
    return stage, samples


def refine(run: Run, needs: Sequence[Stage], inputs: RefineInputs) -> tuple[Stage, ScoredMaps]:
    """The trained refinement as class maps."""
    config, task = run.config, run.task
    shape = RefinementConfig(
        config.encoder,
        len(task.classes),
        config.refinement.stages,
        config.refinement.reductions,
        config.refinement.cam_stage,
        task.tile_px,
        config.refinement.key_channels,
        final_norm=config.final_norm,
    )
    # Which of its outputs becomes the pseudo-mask changes nothing in how it is trained.
    settings = {"network": dataclasses.asdict(shape), "refine": dataclasses.asdict(config.refine) | {"output": None}}
    stage = run.stage("refinement", settings | {"schedule": dataclasses.asdict(config.refinement.schedule)}, needs)

    def train(folder: Path) -> RefinementNet:
        lightning.seed_everything(config.seed + 2, verbose=False)
        network = RefinementNet(shape, config.pretrained, config.weights)
        dataset = PatchDataset(run.samples, task, config.augmentation, config.seed + 2)
        schedule = config.refinement.schedule
        module = RefineStage(network, inputs, task, schedule, config.refine, total_steps(len(dataset), schedule, "refinement.schedule"))
        fit(module, dataset, schedule, folder, config.machine)
        return network

    network = do_or_load(stage, train)

    def refined(batch: dict[str, Tensor]) -> Tensor:
        return refined_maps(network.to(batch["image"].device), batch, inputs, task, config.refine)

    return stage, _scored(refined)


def _scored(maps: MapsOf) -> ScoredMaps:
    """Maps that are nowhere negative: without any activation only where an image's maps are 0 throughout; then its first class."""
    return lambda batch: (maps(batch), torch.zeros_like(batch["labels"]))
