"""PistoSeg's network for refining pseudo-masks and its losses (Fang et al. 2023, eq. 2–9). Knows tensors, not where the maps come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention_projection import AttentionProjection, project, to_grid
from .cam import gate_by_labels
from .cam_kinds import CamKind
from .encoder import Encoder
from .errors import RecipeError

MAX_GRID_CELLS = 56  # per side: attention among 56² cells takes 39 MB per image in float32


@dataclass(frozen=True)
class RefinementConfig:
    """What the network is; saved with its weights.

    Attributes:
        encoder: timm name, or `resnet38` (the published code's).
        num_classes: C.
        stages: feature stages of the pyramid F, ascending. Its grid is that of the first, the finest, at most 56 × 56 cells.
        reductions: channels that each of them is reduced to (published code: 512 → 64, 1024 → 128).
        cam_stage: feature stage that the classification head reads.
        image_px: side of the images.
        key_channels: C′ of eq. 2.
        scaled: divide the attention's scores by √C′ (not in the paper).
        final_norm: the deepest stage comes after the encoder's final norm, where a transformer has one.
    """

    encoder: str
    num_classes: int
    stages: tuple[int, ...]
    reductions: tuple[int, ...]
    cam_stage: int
    image_px: int = 224
    key_channels: int = 192
    scaled: bool = False
    final_norm: bool = False

    def __post_init__(self) -> None:
        if not self.stages or list(self.stages) != sorted(set(self.stages)) or len(self.reductions) != len(self.stages):
            raise RecipeError(
                f"refinement: expected ascending, different stages and a reduction for each, got stages {self.stages} and reductions "
                f"{self.reductions}: the published code's are two, reduced to 64 and 128"
            )


@dataclass(frozen=True)
class RefineOptions:
    """How pseudo-masks are refined.

    Attributes:
        cls: train with the classification loss (eq. 6). Without it nothing supervises the classification head (table 3, first rows): net_cam is
            then the map of a random head.
        cons: train with the feature consistency (eq. 7).
        cross: train with the cross regularization (eq. 8).
        cam: what M_CAM is made by (table 4).
        output: the refined maps (table 5): net_cam = the network's own CAMs in the attention space (the paper's best), cam = M̂_CAM (eq. 5),
            pseudo = M̂_pseudo (eq. 4); none = no refinement: the preliminary network's own masks (table 1, "Training with Pseudo-Masks of Real
            Images").
    """

    cls: bool = True
    cons: bool = True
    cross: bool = True
    cam: CamKind = "cam"
    output: Literal["pseudo", "cam", "net_cam", "none"] = "net_cam"

    def __post_init__(self) -> None:
        if not (self.cls or self.cons or self.cross):
            raise RecipeError("refinement: expected at least one of the losses cls, cons and cross, got none")


@dataclass(frozen=True)
class Refinement:
    """What the network makes of a batch.

    Attributes:
        class_maps: without bias, (B, C, h′, w′) on the grid of `cam_stage`.
        logits: (B, C).
        attention: A of eq. 3 on the pyramid's grid, (B, hw, hw).
        counted: bool (B, h, w), cells that are more than half image.
    """

    class_maps: Tensor
    logits: Tensor
    attention: Tensor
    counted: Tensor

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the pyramid F."""
        return (self.counted.shape[1], self.counted.shape[2])

    def project(self, maps: Tensor) -> Tensor:
        """Eq. 4, 5: (B, C, any grid) → (B, C, h, w) in the attention space."""
        return project(maps, self.attention, self.grid)


class RefinementNet(nn.Module):
    """(B, 3, H, W) normalized → class maps, logits and the attention of the pyramid features.

    F = [ReLU(1×1 convolution) of each of `stages`, the image], all on the finest stage's grid: coarser stages are enlarged bilinearly, the
    image is averaged. Gradients reach the encoder through F and through the head (published code: neither is detached).
    """

    def __init__(self, config: RefinementConfig, pretrained: bool = False, weights: Path | None = None) -> None:
        super().__init__()
        self.config = config
        used = tuple(sorted({*config.stages, config.cam_stage}))
        self.encoder = Encoder(config.encoder, used, pretrained, weights, config.image_px, config.final_norm)
        self._places = [used.index(stage) for stage in config.stages]
        self._cam_place = used.index(config.cam_stage)
        _check_grid(config, config.image_px // self.encoder.strides[self._places[0]])
        self.reductions = nn.ModuleList(
            nn.Conv2d(self.encoder.channels[place], width, 1) for place, width in zip(self._places, config.reductions, strict=True)
        )
        self.head = nn.Conv2d(self.encoder.channels[self._cam_place], config.num_classes, 1)
        self.projection = AttentionProjection(sum(config.reductions) + 3, config.key_channels, config.scaled)

    def forward(self, images: Tensor, valid: Tensor | None = None) -> Refinement:
        """One pass.

        Args:
            images: normalized (B, 3, H, W).
            valid: bool (B, H, W), False on padding, which then counts in no logit and gives nothing to the attention space.

        Raises:
            RecipeError: images so large that the grid exceeds 56 × 56 cells.
        """
        features = self.encoder(images)
        pyramid = self.pyramid(images, [features[place] for place in self._places])
        grid = (pyramid.shape[2], pyramid.shape[3])
        shares = torch.ones_like(images[:, :1]) if valid is None else valid[:, None].to(images.dtype)
        counted = functional.adaptive_avg_pool2d(shares, grid)[:, 0] > 0.5
        class_maps, logits = self.classify(features[self._cam_place], shares)
        return Refinement(class_maps, logits, self.projection(pyramid, counted), counted)

    def pyramid(self, images: Tensor, stages: list[Tensor]) -> Tensor:
        """F of eq. 2: (B, Σ reductions + 3, h, w)."""
        grid = (stages[0].shape[2], stages[0].shape[3])
        _check_grid(self.config, max(grid))
        reduced = [functional.relu(layer(stage)) for layer, stage in zip(self.reductions, stages, strict=True)]
        return torch.cat([*(to_grid(feature, grid) for feature in reduced), to_grid(images, grid).to(reduced[0].dtype)], dim=1)

    def classify(self, features: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Class maps without bias (B, C, h′, w′), and logits (B, C): their average over the image, with bias.

        Args:
            features: (B, D, h′, w′).
            shares: (B, 1, H, W), how much of each pixel is image.
        """
        class_maps = functional.conv2d(features, self.head.weight)
        weights = functional.adaptive_avg_pool2d(shares, (features.shape[2], features.shape[3])).to(class_maps.dtype)
        total = weights.sum(dim=(2, 3)).clamp(min=torch.finfo(class_maps.dtype).tiny)
        bias = self.head.bias
        assert bias is not None  # nn.Conv2d's default
        return class_maps, (class_maps * weights).sum(dim=(2, 3)) / total + bias


def refinement_losses(refined: Refinement, pseudo: Tensor, cam: Tensor, labels: Tensor, options: RefineOptions) -> dict[str, Tensor]:
    """The terms of eq. 9 that `options` switches on, by name; their sum is the loss.

    The maps of classes that are not on the image's label are 0 in M_pseudo and M_CAM alike. They add 0 to each sum and are counted in each mean, so
    that an image's weight does not depend on how many classes it has. No gradient reaches the maps.

    Args:
        pseudo: M_pseudo, the preliminary segmenter's probabilities, (B, C, any grid), 0…1.
        cam: M_CAM, normalized, (B, C, any grid), 0…1.
        labels: image-level, (B, C).
    """
    pseudo, cam = (to_grid(gate_by_labels(maps.detach(), labels), refined.grid) for maps in (pseudo, cam))
    projected_pseudo, projected_cam = refined.project(pseudo), refined.project(cam)
    losses: dict[str, Tensor] = {}
    if options.cls:
        losses["cls"] = classification_loss(refined.logits, labels)
    if options.cons:
        losses["cons"] = consistency_loss(projected_pseudo, projected_cam, refined.counted)
    if options.cross:
        losses["cross"] = cross_loss(pseudo, cam, projected_pseudo, projected_cam, refined.counted)
    return losses


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Eq. 6, the multi-label soft margin loss, mean over classes and images. (B, C) twice."""
    return functional.multilabel_soft_margin_loss(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels)


def consistency_loss(projected_pseudo: Tensor, projected_cam: Tensor, counted: Tensor) -> Tensor:
    """Eq. 7 as a mean (METHODS): |M̂_pseudo − M̂_CAM| over images, classes and counted cells; 0 where none counts. (B, C, h, w) twice."""
    return _mean_distance(projected_pseudo, projected_cam, counted)


def cross_loss(pseudo: Tensor, cam: Tensor, projected_pseudo: Tensor, projected_cam: Tensor, counted: Tensor) -> Tensor:
    """Eq. 8, each term as a mean (METHODS): |M_pseudo − M̂_CAM| + |M_CAM − M̂_pseudo|. All (B, C, h, w)."""
    return _mean_distance(pseudo, projected_cam, counted) + _mean_distance(cam, projected_pseudo, counted)


def _mean_distance(one: Tensor, other: Tensor, counted: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    apart = (one.to(wide) - other.to(wide)).abs() * counted[:, None]
    return apart.sum() / (counted.sum() * one.shape[1]).clamp(min=1)


def _check_grid(config: RefinementConfig, cells: int) -> None:
    if cells > MAX_GRID_CELLS:
        raise RecipeError(
            f"refinement: expected a pyramid of at most {MAX_GRID_CELLS}×{MAX_GRID_CELLS} cells, for attention among all of them, got {cells} on "
            f"a side with stages {config.stages} of {config.encoder!r}: take deeper stages, or smaller images"
        )
