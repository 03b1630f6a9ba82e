"""PistoSeg's refinement as a Lightning module (Fang et al. 2023, "Pseudo-Mask Refining Module"). Knows the method, not the networks behind the maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .cam import gate_by_labels, normalize_cam
from .cam_kinds import CamKind, class_maps
from .classifier import Classifier
from .encoder import normalize
from .errors import RecipeError
from .refinement import Refinement, RefinementNet, RefineOptions, refinement_losses
from .schedule import Schedule, make_optimizer

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip

MapsOf = Callable[[dict[str, Tensor]], Tensor]
"""A batch of `PatchDataset` → maps of the classes, (B, C, h, w), 0…1, on any grid."""


@dataclass(frozen=True)
class RefineInputs:
    """The two frozen networks that the refinement listens to. No part of the module: neither trained nor saved with it.

    Attributes:
        pseudo: M_pseudo, the preliminary segmenter's probabilities.
        cam: M_CAM, a trained classifier's normalized CAMs.
    """

    pseudo: MapsOf
    cam: MapsOf


def cam_of(network: Classifier, task: TissueTask, kind: CamKind) -> MapsOf:
    """M_CAM by `kind` (table 4), normalized to each map's maximum. The network is put into evaluation mode and follows the batch's device."""

    def maps(batch: dict[str, Tensor]) -> Tensor:
        images = _images(batch, task)
        with torch.enable_grad():  # the gradient kinds differentiate, also where the caller does not; they keep no graph
            activations, _ = class_maps(network.to(images.device).eval(), images, kind)
        return normalize_cam(activations)

    return maps


def probabilities_of(network: nn.Module, task: TissueTask, activation: Literal["sigmoid", "softmax"]) -> MapsOf:
    """M_pseudo of a segmenter whose logits are of the C classes alone. It is put into evaluation mode and follows the batch's device.

    Args:
        activation: what the segmenter's loss took its logits for: sigmoid with binary cross-entropy (the paper), softmax with others.

    Raises:
        RecipeError: when called, a network of another number of channels.
    """

    def maps(batch: dict[str, Tensor]) -> Tensor:
        images = _images(batch, task)
        logits: Tensor = network.to(images.device).eval()(images)
        if logits.shape[1] != len(task.classes):
            raise RecipeError(
                f"preliminary segmenter: expected logits of the {len(task.classes)} classes of task {task.name!r}, got {logits.shape[1]} "
                "channels: it has no background channel"
            )
        return logits.float().sigmoid() if activation == "sigmoid" else logits.float().softmax(dim=1)

    return maps


class RefineStage(lightning.LightningModule):
    """L = L_cls + L_cons + L_cross (eq. 9) on images of the training set; M_pseudo and M_CAM are those of the image as it was augmented.

    Padding counts in no term: cells of which half or less is image give nothing to the attention space and are left out of the means; the average
    that makes the logits weighs cells by how much of them is image.
    """

    def __init__(
        self,
        network: RefinementNet,
        inputs_from: RefineInputs,
        task: TissueTask,
        schedule: Schedule,
        options: RefineOptions,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.inputs_from = inputs_from
        self.task = task
        self.schedule = schedule
        self.options = options
        self.total_steps = total_steps

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        with torch.no_grad():
            pseudo, cam = self.inputs_from.pseudo(batch), self.inputs_from.cam(batch)
        refined: Refinement = self.network(_images(batch, self.task), batch["valid"])
        losses = refinement_losses(refined, pseudo, cam, batch["labels"], self.options)
        for name, loss in losses.items():
            self.log(name, loss.detach(), prog_bar=True)
        return torch.stack(list(losses.values())).sum()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.network.parameters(), self.schedule, self.total_steps)


@torch.no_grad()
def refined_maps(
    network: RefinementNet, batch: dict[str, Tensor], inputs_from: RefineInputs, task: TissueTask, options: RefineOptions
) -> Tensor:
    """The refined maps that `options.output` names, gated by the image's label: (B, C, h, w) on the pyramid's grid, 0…1.

    Args:
        network: in evaluation mode.
        inputs_from: asked for what the output needs: nothing with net_cam.

    Raises:
        RecipeError: the output is none.
    """
    if options.output == "none":
        raise RecipeError("refine.output: expected pseudo, cam or net_cam to refine, got none: take the preliminary network's maps")
    refined: Refinement = network(_images(batch, task), batch["valid"])
    if options.output == "net_cam":
        maps = normalize_cam(refined.class_maps)
    elif options.output == "cam":
        maps = inputs_from.cam(batch)
    else:
        maps = inputs_from.pseudo(batch)
    return refined.project(gate_by_labels(maps, batch["labels"]))


def _images(batch: dict[str, Tensor], task: TissueTask) -> Tensor:
    return normalize(batch["image"], task.normalization.mean, task.normalization.std)
