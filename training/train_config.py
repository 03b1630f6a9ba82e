"""What `histoserve train` is asked for, and the data it finds. Knows every method's options, trains nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from serving.contract import TissueTask
from serving.tasks import get_task

from .cam_kinds import CamOptions
from .datasets.catalog import DataFormat, read_training
from .dropout_attention import DropoutAttentionOptions
from .errors import DataError, RecipeError
from .fitting import Machine
from .mosaic import MosaicOptions
from .mutual import MutualOptions
from .patch_dataset import Augmentation
from .patches import PatchRecord
from .refinement import RefineOptions
from .schedule import Schedule
from .segmenter import DecoderKind
from .stage_one import PsclOptions
from .stage_two import StageTwoOptions

Method = Literal["pscl", "pistoseg", "arml", "sc_cam", "mlps"]


@dataclass(frozen=True)
class RefinementStage:
    """PistoSeg's refinement network, where it is not as the paper's."""

    stages: tuple[int, ...] = (2, 3)
    """Feature stages of the pyramid F; its grid is the first's, at most 56 × 56 cells."""
    reductions: tuple[int, ...] = (64, 128)
    """Channels each of them is reduced to."""
    cam_stage: int = 3
    """Feature stage that its classification head reads."""
    key_channels: int = 192
    """C′ of eq. 2."""
    schedule: Schedule = field(default_factory=lambda: Schedule("sgd", 1e-3, batch=16, epochs=20))


@dataclass(frozen=True)
class SubcategoryOptions:
    """SC-CAM."""

    per_class: int = 10
    rounds: int = 3
    weight: float = 5.0
    """Of the sub-categories' loss."""


@dataclass(frozen=True)
class TrainConfig:
    """Learn a segmenter from image-level labels. `@recipe.toml` stands for the flags in it. A run that is started again goes on; what a changed
    setting touches is done anew."""

    data: Path
    """Folder of patches with image-level labels. Masks in it are opened with --supervised alone."""
    output: Path
    """Folder that gets checkpoint.pt and a folder for each stage: networks, pseudo-masks, curves."""
    method: Method = "pscl"
    """pscl (with --pscl.weight 0 the plain baseline), pistoseg, arml, sc_cam, mlps. OEEM is the baseline with --segment.loss easy_examples."""
    data_format: DataFormat = "folder"
    """Of the data: folder = images/ and labels.csv, as `histoserve patches` writes; or a published set as it was published."""
    task: str = "demo"
    """One of the tasks in serving/tasks.py."""
    tile_px: int | None = None
    """Side of the patches and of the served tiles, where it is not the task's; a multiple of 32."""
    mpp: float | None = None
    """Micrometers per pixel of the patches, where it is not the task's."""
    encoder: str = "swin_tiny_patch4_window7_224"
    """timm name of the encoder of the classifier, and of the segmenters where they have none of their own."""
    segment_encoder: str | None = None
    """Of the network that is trained last; by default the classifier's, from whose weights it then starts."""
    preliminary_encoder: str | None = None
    """Of PistoSeg's preliminary network; by default as the last one's."""
    cam_stages: tuple[int, ...] = (3,)
    """Feature stages that the classifier's head reads; several are fused on the finest grid."""
    cam_levels: tuple[int, ...] = ()
    """Shallower feature stages whose gradient CAMs make further pseudo-masks (MLPS, ARML's option); needs a gradient --cam.kind."""
    final_norm: bool = True
    """The deepest of these stages comes after the encoder's final norm, where a transformer has one."""
    decoder_stages: tuple[int, ...] = (0, 1, 2, 3)
    """Feature stages that the decoder reads."""
    decoder: DecoderKind = "mask2former"
    """Mask2Former's pixel decoder (PSCL), a plain feature pyramid, UNet++ (PistoSeg), PSPNet (ARML)."""
    decoder_width: int = 256
    """Channels of the decoder."""
    decoder_layers: int = 6
    """Layers of Mask2Former's deformable encoder."""
    decoder_attention: Literal["scse"] | None = None
    """Of UNet++'s blocks."""
    pretrained: bool = False
    """Start from timm's pretrained weights (needs its hub)."""
    weights: Path | None = None
    """Start from a local checkpoint file of the encoder."""
    stage1: Schedule = field(default_factory=Schedule)
    """Of the classifier."""
    stage2: Schedule = field(default_factory=lambda: Schedule("adamw", 1e-4, power=0.0, batch=32, epochs=20))
    """Of the network that is trained last."""
    pscl: PsclOptions = field(default_factory=PsclOptions)
    segment: StageTwoOptions = field(default_factory=StageTwoOptions)
    cam: CamOptions = field(default_factory=CamOptions)
    mosaic: MosaicOptions = field(default_factory=MosaicOptions)
    preliminary: Schedule = field(default_factory=lambda: Schedule("adamw", 1e-3, 0.05, power=0.0, epoch_decay=0.9, batch=16, epochs=15))
    """Of PistoSeg's preliminary network."""
    refine: RefineOptions = field(default_factory=RefineOptions)
    refinement: RefinementStage = field(default_factory=RefinementStage)
    relocalize: bool = True
    """ARML's activation relocalization in the classifier (table 2)."""
    mutual: MutualOptions = field(default_factory=MutualOptions)
    keep: Literal["first", "mean"] = "first"
    """Which of ARML's three networks is the result: one, or the mean of all."""
    dropout: DropoutAttentionOptions = field(default_factory=DropoutAttentionOptions)
    """MLPS's progressive dropout attention."""
    subcategory: SubcategoryOptions = field(default_factory=SubcategoryOptions)
    augmentation: Augmentation = field(default_factory=Augmentation)
    supervised: bool = False
    """Train the last network on the masks of the data instead: the upper bound that weak supervision is compared with."""
    machine: Machine = field(default_factory=Machine)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cam_levels and self.cam.kind == "cam":
            raise RecipeError(
                "--cam-levels: expected a gradient --cam.kind (grad_cam, grad_cam_pp, hires_cam), got cam: it reads the head alone"
            )
        if self.cam_levels and self.method != "arml" and self.segment.loss != "cross_entropy":
            raise RecipeError(f"--cam-levels: expected --segment.loss cross_entropy with several pseudo-masks, got {self.segment.loss}")
        levels = self.mutual.level_weights if self.method == "arml" else self.segment.level_weights
        if self.cam_levels and len(levels) != 1 + len(self.cam_levels):
            flag = "mutual" if self.method == "arml" else "segment"
            raise RecipeError(
                f"--{flag}.level-weights: expected {1 + len(self.cam_levels)}, one for each pseudo-mask of --cam-levels and the deepest, got {levels}"
            )
        if self.supervised and self.segment.loss == "noise_reduced":
            raise RecipeError("--supervised: masks have no confidence: expected another --segment.loss than noise_reduced")


def chosen_task(config: TrainConfig) -> TissueTask:
    """The task with the recipe's tile and scale, as it is frozen into the checkpoint."""
    task = get_task(config.task)
    return dataclasses.replace(task, tile_px=config.tile_px or task.tile_px, mpp=config.mpp or task.mpp)


def read_records(config: TrainConfig, task: TissueTask) -> list[PatchRecord]:
    """The patches that hold a class (METHODS: those without any are dropped).

    Raises:
        DataError: the folder cannot be read, lacks a class, or with `supervised` a mask.
    """
    records = read_training(config.data, task, config.data_format)
    missing = [name for index, name in enumerate(task.class_names) if not any(record.labels[index] for record in records)]
    if missing:
        raise DataError(f"{config.data}: expected patches of every class of task {task.name!r}, found none of {', '.join(missing)}")
    bare = [record.image.name for record in records if record.mask is None]
    if config.supervised and bare:
        raise DataError(f"{config.data}: --supervised expects a mask for every patch, found none for {len(bare)}, e.g. {bare[0]}")
    return records
