"""The PSCL recipe from a folder of patches to a checkpoint: stage 1, pseudo-masks, stage 2. Knows the order; each step lives in its own module."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.contract import TissueTask
from serving.tasks import get_task

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .cam_kinds import CamOptions
from .checkpoint import Checkpoint, load, save
from .classifier import Classifier, ClassifierConfig
from .datasets.catalog import DataFormat, read_training
from .encoder import copy_encoder
from .errors import DataError, RecipeError
from .fitting import Machine, fit, total_steps
from .patch_dataset import Augmentation, PatchDataset, PatchSample
from .patches import PatchRecord
from .pseudomask import write_pseudo_masks
from .schedule import Schedule
from .segmenter import DecoderKind, Segmenter, SegmenterConfig
from .stage_one import PsclOptions, StageOne
from .stage_two import StageTwo, StageTwoOptions

import lightning  # isort: skip

CHECKPOINT_FILE = "checkpoint.pt"
STAGE_ONE_FILE = "stage1.pt"


@dataclass(frozen=True)
class TrainConfig:
    """Learn a segmenter from image-level labels (PSCL). `@recipe.toml` stands for the flags in it. An interrupted run goes on."""

    data: Path
    """Folder of patches with image-level labels. Masks in it are opened with --supervised alone."""
    output: Path
    """Folder that gets checkpoint.pt, pseudo_masks/ and the curves."""
    data_format: DataFormat = "folder"
    """Of the data: folder = images/ and labels.csv, as `histoserve patches` writes; or a published set as it was published."""
    task: str = "demo"
    """One of the tasks in serving/tasks.py."""
    tile_px: int | None = None
    """Side of the patches and of the served tiles, where it is not the task's; a multiple of 32."""
    mpp: float | None = None
    """Micrometers per pixel of the patches, where it is not the task's."""
    encoder: str = "swin_tiny_patch4_window7_224"
    """timm name of the encoder of both stages."""
    cam_stages: tuple[int, ...] = (3,)
    """Feature stages that the classifier's head reads; several are fused on the finest grid."""
    final_norm: bool = True
    """The deepest of these stages comes after the encoder's final norm, where a transformer has one."""
    decoder_stages: tuple[int, ...] = (0, 1, 2, 3)
    """Feature stages that the decoder fuses."""
    decoder: DecoderKind = "mask2former"
    """Pixel decoder: the thesis's, of Mask2Former, or a plain feature pyramid."""
    decoder_width: int = 256
    """Channels of the pixel decoder."""
    decoder_layers: int = 6
    """Layers of Mask2Former's deformable encoder."""
    pretrained: bool = False
    """Start from timm's pretrained weights (needs its hub)."""
    weights: Path | None = None
    """Start from a local checkpoint file of the encoder."""
    stage1: Schedule = field(default_factory=Schedule)
    stage2: Schedule = field(default_factory=lambda: Schedule("adamw", 1e-4, power=0.0, batch=32, epochs=20))
    pscl: PsclOptions = field(default_factory=PsclOptions)
    segment: StageTwoOptions = field(default_factory=StageTwoOptions)
    cam: CamOptions = field(default_factory=CamOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    supervised: bool = False
    """Train stage 2 on the masks of the data instead: the upper bound that weak supervision is compared with."""
    machine: Machine = field(default_factory=Machine)
    seed: int = 0


def train_pscl(config: TrainConfig) -> Path:
    """Train both stages, or with `supervised` the segmenter on masks; returns the checkpoint's path.

    Raises:
        TrainingError: data, recipe or encoder cannot be used.
    """
    task = chosen_task(config)
    records = read_records(config, task)
    path = config.output / CHECKPOINT_FILE
    started_s = time.monotonic()
    if config.supervised:
        if config.segment.loss != "cross_entropy":
            raise RecipeError("--supervised: masks have no confidence: expected --segment.loss cross_entropy")
        segmenter = train_segmenter(config, task, _masks_as_targets(config, records), None)
        save(path, Checkpoint(task, "supervised", None, segmenter.eval(), _provenance(config, len(records), started_s)))
        return path
    samples = [PatchSample(record.image, record.labels) for record in records]
    classifier = _stage_one(config, task, samples)
    targets = write_pseudo_masks(classifier, samples, task, config.output / "pseudo_masks", config.cam)
    segmenter = train_segmenter(config, task, targets, classifier)
    save(path, Checkpoint(task, "pscl", classifier.eval(), segmenter.eval(), _provenance(config, len(records), started_s)))
    (config.output / STAGE_ONE_FILE).unlink(missing_ok=True)
    return path


def chosen_task(config: TrainConfig) -> TissueTask:
    """The task with the recipe's tile and scale, as it is frozen into the checkpoint."""
    task = get_task(config.task)
    return dataclasses.replace(task, tile_px=config.tile_px or task.tile_px, mpp=config.mpp or task.mpp)


def train_classifier(config: TrainConfig, task: TissueTask, samples: Sequence[PatchSample]) -> Classifier:
    """Stage 1."""
    lightning.seed_everything(config.seed, verbose=False)
    network = Classifier(
        ClassifierConfig(config.encoder, config.cam_stages, len(task.classes), task.tile_px, config.final_norm),
        config.pretrained,
        config.weights,
    )
    dataset = PatchDataset(samples, task, config.augmentation, config.seed)
    module = StageOne(network, task, config.stage1, config.pscl, total_steps(len(dataset), config.stage1, "stage1"), config.seed)
    fit(module, dataset, config.stage1, config.output / "stage1", config.machine)
    return network


def train_segmenter(config: TrainConfig, task: TissueTask, targets: Sequence[PatchSample], classifier: Classifier | None) -> Segmenter:
    """Stage 2: the encoder starts from stage 1's where there is one."""
    lightning.seed_everything(config.seed + 1, verbose=False)
    network = Segmenter(
        SegmenterConfig(
            config.encoder,
            config.decoder_stages,
            len(task.classes),
            config.decoder_width,
            config.decoder,
            config.decoder_layers,
            image_px=task.tile_px,
        ),
        config.pretrained,
        config.weights,
    )
    if classifier is not None:
        copy_encoder(classifier.encoder, network.encoder)
    dataset = PatchDataset(targets, task, config.augmentation, config.seed + 1)
    module = StageTwo(network, task, config.stage2, config.segment, total_steps(len(dataset), config.stage2, "stage2"))
    fit(module, dataset, config.stage2, config.output / "stage2", config.machine)
    return network


def read_records(config: TrainConfig, task: TissueTask) -> list[PatchRecord]:
    """The patches that hold a class (METHODS: those without any are dropped).

    Raises:
        DataError: the folder cannot be read, or lacks a class.
    """
    records = read_training(config.data, task, config.data_format)
    missing = [name for index, name in enumerate(task.class_names) if not any(record.labels[index] for record in records)]
    if missing:
        raise DataError(f"{config.data}: expected patches of every class of task {task.name!r}, found none of {', '.join(missing)}")
    return records


def _stage_one(config: TrainConfig, task: TissueTask, samples: Sequence[PatchSample]) -> Classifier:
    """Stage 1's network, trained or, where an interrupted run had finished it, read."""
    path = config.output / STAGE_ONE_FILE
    if path.exists():
        network = load(path).cam_network
        if network is None:
            raise RecipeError(f"{path}: expected stage 1 of this run, found none in it: remove {config.output} and train again")
        return network
    started_s = time.monotonic()
    classifier = train_classifier(config, task, samples)
    save(path, Checkpoint(task, "pscl", classifier.eval(), None, _provenance(config, len(samples), started_s)))
    return classifier


def _masks_as_targets(config: TrainConfig, records: Sequence[PatchRecord]) -> list[PatchSample]:
    bare = [record.image.name for record in records if record.mask is None]
    if bare:
        raise DataError(f"{config.data}: --supervised expects a mask for every patch, found none for {len(bare)}, e.g. {bare[0]}")
    return [PatchSample(record.image, record.labels, record.mask) for record in records]


def _provenance(config: TrainConfig, patches: int, started_s: float) -> dict[str, Any]:
    names = ["histoserve", "torch", "timm", "lightning", "pytorch-metric-learning"]
    names += ["transformers"] if config.decoder == "mask2former" else []
    versions = {name: importlib.metadata.version(name) for name in names}
    recipe = {key: _plain(value) for key, value in dataclasses.asdict(config).items()}
    seconds = round(time.monotonic() - started_s, 1)
    return {"command": sys.argv[1:], "versions": versions, "recipe": recipe, "patches": patches, "seconds": seconds}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value
