"""The stages that methods have in common, each in a folder of the run: classifier, pseudo-masks, segmenter. Knows no method."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from serving.contract import TissueTask, task_to_dict

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .cam_kinds import CamOptions
from .classifier import Classifier, ClassifierConfig
from .encoder import copy_encoder
from .fitting import fit, total_steps
from .network_file import load_network, save_network
from .patch_dataset import PatchDataset, PatchSample
from .patches import PatchRecord
from .pseudomask import ScoredMaps, cam_maps, with_pseudo_masks, write_pseudo_masks
from .schedule import Schedule
from .segmenter import Segmenter, SegmenterConfig
from .stage_one import PsclOptions, StageOne
from .stage_two import StageTwo, StageTwoOptions
from .stages import Stage, make_stage
from .train_config import TrainConfig

import lightning  # isort: skip

NETWORK_FILE = "network.pt"
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Run:
    """One run of `histoserve train`.

    Attributes:
        samples: the patches with their image-level labels.
        stages: those that the run went through, in their order.
    """

    config: TrainConfig
    task: TissueTask
    samples: Sequence[PatchSample]
    content: str
    stages: list[Stage] = dataclasses.field(default_factory=list)

    def stage(self, name: str, settings: Mapping[str, Any], needs: Sequence[Stage] = ()) -> Stage:
        """A stage of this run; it depends on task and data, and on the stages it needs."""
        everywhere = {"task": task_to_dict(self.task), "data": self.content, "seed": self.config.seed}
        stage = make_stage(self.config.output, name, {**everywhere, **settings}, needs)
        self.stages.append(stage)
        return stage


def start_run(config: TrainConfig, task: TissueTask, records: Sequence[PatchRecord]) -> Run:
    """A run over these patches; with `supervised` their masks are the targets."""
    samples = [PatchSample(record.image, record.labels, record.mask if config.supervised else None) for record in records]
    told = "\n".join(f"{sample.image.name} {sample.image.stat().st_size} {sample.labels}" for sample in samples)
    return Run(config, task, samples, hashlib.sha256(told.encode()).hexdigest())


def classify(run: Run, pscl: PsclOptions, relocalize: bool = False) -> tuple[Stage, Classifier]:
    """Stage 1: a classifier of image-level labels, with the contrastive term where `pscl.weight` is above 0."""
    config = run.config
    settings = {**network_settings(config), "stages": config.cam_stages, "final_norm": config.final_norm, "relocalize": relocalize}
    # Without the contrastive term its settings change nothing.
    settings |= {"schedule": dataclasses.asdict(config.stage1), "pscl": dataclasses.asdict(pscl) if pscl.weight > 0 else None}
    stage = run.stage("stage1", settings)

    def train(folder: Path) -> Classifier:
        lightning.seed_everything(config.seed, verbose=False)
        network = make_classifier(run, relocalize)
        dataset = PatchDataset(run.samples, run.task, config.augmentation, config.seed)
        steps = total_steps(len(dataset), config.stage1, "stage1")
        fit(StageOne(network, run.task, config.stage1, pscl, steps, config.seed), dataset, config.stage1, folder, config.machine)
        return network

    return stage, do_or_load(stage, train)


def make_classifier(run: Run, relocalize: bool = False) -> Classifier:
    """A fresh classifier as the recipe has it."""
    config = run.config
    shape = ClassifierConfig(config.encoder, config.cam_stages, len(run.task.classes), run.task.tile_px, config.final_norm, relocalize)
    return Classifier(shape, config.pretrained, config.weights)


def write_cam_masks(run: Run, source: Stage, network: Classifier) -> tuple[list[Stage], list[PatchSample]]:
    """Pseudo-masks of a classifier's CAMs; with `cam_levels` further ones of shallower stages, as more targets."""
    config = run.config
    deepest, samples = write_masks(run, source, cam_maps(network, run.task, config.cam), dataclasses.asdict(config.cam))
    stages = [deepest]
    for level in config.cam_levels:
        options: CamOptions = dataclasses.replace(config.cam, stage=level)
        maps = cam_maps(network, run.task, options)
        stage, shallower = write_masks(run, source, maps, dataclasses.asdict(options), f"pseudo_masks_{level}")
        stages.append(stage)
        both = zip(samples, shallower, strict=True)
        samples = [dataclasses.replace(one, more_targets=(*one.more_targets, _target(other))) for one, other in both]
    return stages, samples


def write_masks(
    run: Run, source: Stage, maps: ScoredMaps, settings: Mapping[str, Any], name: str = "pseudo_masks"
) -> tuple[Stage, list[PatchSample]]:
    """Pseudo-masks of any class maps, and the samples that have them as targets."""
    stage = run.stage(name, {"maps": settings}, [source])
    if not stage.is_done:
        with stage.work() as folder:
            write_pseudo_masks(maps, run.samples, run.task, folder, {"maps": stage.settings["maps"]})
    return stage, with_pseudo_masks(run.samples, stage.folder)


def segment(
    run: Run, targets: Sequence[PatchSample], needs: Sequence[Stage], has_background: bool, start: Classifier | None = None
) -> Segmenter:
    """Stage 2: the segmenter that is the run's result.

    Args:
        needs: the stages that the targets come from.
        start: a classifier whose encoder it starts from, where it has the same one.
    """
    config = run.config
    return train_segmenter(
        run, "stage2", segmenter_config(run, config.segment_encoder, has_background), targets, needs, config.stage2, start
    )


def train_segmenter(
    run: Run,
    name: str,
    shape: SegmenterConfig,
    targets: Sequence[PatchSample],
    needs: Sequence[Stage],
    schedule: Schedule,
    start: Classifier | None = None,
    options: StageTwoOptions | None = None,
) -> Segmenter:
    """A segmenter on label images."""
    config, loss = run.config, options or run.config.segment
    settings = {**network_settings(config), "network": dataclasses.asdict(shape), "schedule": dataclasses.asdict(schedule)}
    stage = run.stage(name, settings | {"loss": dataclasses.asdict(loss), "supervised": config.supervised}, needs)

    def train(folder: Path) -> Segmenter:
        lightning.seed_everything(config.seed + 1, verbose=False)
        network = make_segmenter(run, shape, start)
        dataset = PatchDataset(targets, run.task, config.augmentation, config.seed + 1)
        fit(
            StageTwo(network, run.task, schedule, loss, total_steps(len(dataset), schedule, name)),
            dataset,
            schedule,
            folder,
            config.machine,
        )
        return network

    return do_or_load(stage, train)


def make_segmenter(run: Run, shape: SegmenterConfig, start: Classifier | None) -> Segmenter:
    """A fresh segmenter; local weights are of the classifier's encoder and go into the same one alone."""
    config = run.config
    network = Segmenter(shape, config.pretrained, config.weights if shape.encoder == config.encoder else None)
    if start is not None and shape.encoder == config.encoder:
        copy_encoder(start.encoder, network.encoder)
    return network


def segmenter_config(run: Run, encoder: str | None, has_background: bool) -> SegmenterConfig:
    """The recipe's segmenter."""
    config = run.config
    return SegmenterConfig(
        encoder or config.encoder,
        config.decoder_stages,
        len(run.task.classes),
        config.decoder_width,
        config.decoder,
        config.decoder_layers,
        run.task.tile_px,
        has_background,
        config.decoder_attention,
    )


def do_or_load(stage: Stage, train: Callable[[Path], Network]) -> Network:
    """The stage's network in evaluation mode: trained now and written, or read where the stage is done."""
    path = stage.folder / NETWORK_FILE
    if not stage.is_done:
        with stage.work() as folder:
            save_network(path, train(folder).cpu().eval())
    network: Any = load_network(path)
    return network  # type: ignore[no-any-return]


def network_settings(config: TrainConfig) -> dict[str, Any]:
    """What every trained network depends on."""
    weights = None
    if config.weights is not None and config.weights.is_file():
        with config.weights.open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "encoder": config.encoder,
        "pretrained": config.pretrained,
        "weights": weights,
        "augmentation": dataclasses.asdict(config.augmentation),
        "precision": config.machine.precision,
        "devices": config.machine.devices,
    }


def _target(sample: PatchSample) -> Path:
    assert sample.target is not None  # `with_pseudo_masks` gives every sample one
    return sample.target
