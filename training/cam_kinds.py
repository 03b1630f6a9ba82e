"""Class maps of a classifier by four definitions behind one signature, and their average over flips and scales. Knows no label.

Each is a weighting of features, Σ_d w_d·f_d, before ReLU and normalization (`training.cam.normalize_cam`). With S a class's logit, f_d(x) channel
d of the features at cell x, g_d(x) = ∂S/∂f_d(x), and means over the h·w cells:

| kind | w_d | equation |
|---|---|---|
| cam | the head's weight | Zhou et al. 2016, eq. 2; thesis eq. 4.3 |
| grad_cam | mean_x g_d(x) | Selvaraju et al. 2017, eq. 1–2 |
| grad_cam_pp | Σ_x α_d(x)·ReLU(g_d(x)), α_d(x) = g_d(x)² / (2·g_d(x)² + Σ_y f_d(y)·g_d(x)³) | Chattopadhay et al. 2018, eq. 2, 19 |
| hires_cam | g_d(x), at each cell its own | Draelos & Carin 2020, eq. 4 |

Where the head averages and is linear, as ours on the features that it reads, grad_cam and hires_cam are cam / (h·w). Grad-CAM++ takes exp(S) as the
score, whose higher derivatives are powers of g; its factor exp(S), one number per image and class, is left out: normalization removes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .classifier import Classifier
from .errors import RecipeError

CamKind = Literal["cam", "grad_cam", "grad_cam_pp", "hires_cam"]


@dataclass(frozen=True)
class CamOptions:
    """How class maps are computed where pseudo-masks are made; the served graph holds the plain CAM."""

    kind: CamKind = "cam"
    flips: bool = True
    """Average over the image and its mirror images."""
    scales: tuple[float, ...] = (1.0,)
    """Average over sizes of the image, on the grid of the first."""
    stage: int | None = None
    """Feature stage whose gradients the gradient kinds read; without it what the head reads."""


def class_maps(network: Classifier, images: Tensor, kind: CamKind, stage: int | None = None) -> tuple[Tensor, Tensor]:
    """Class maps (B, C, h, w) without bias and logits (B, C) of normalized images (B, 3, H, W). No graph is kept.

    Args:
        network: in evaluation mode, where batch normalization and dropout leave images independent of each other.
        stage: a stage of the encoder up to the deepest that the head reads; h and w are its grid's. None = the features that the head reads.

    Raises:
        RecipeError: a stage with `cam`, which reads the head's weights and no gradient.
        EncoderError: the encoder has no map of that stage, or does not take images of this size.
    """
    if kind == "cam":
        if stage is not None:
            raise RecipeError(f"cam: expected a gradient kind (grad_cam, grad_cam_pp, hires_cam) to look into stage {stage}, got cam")
        with torch.no_grad():
            maps, logits = network(images)
        return maps, logits
    features, gradients, logits = _differentiate(network, images, stage)
    return torch.stack([_weigh(features, gradient, kind) for gradient in gradients], dim=1), logits


def averaged_class_maps(network: Classifier, images: Tensor, options: CamOptions) -> tuple[Tensor, Tensor]:
    """Class maps and logits averaged over the views (mirrored left–right, upside down and both; sizes), each map brought back to where
    the image's pixels lie, on the grid of the first size.

    Raises:
        RecipeError, EncoderError: as `class_maps`; or scales that are no sizes.
    """
    if not options.scales or min(options.scales) <= 0:
        raise RecipeError(f"cam: expected scales above 0, got {options.scales}")
    maps: list[Tensor] = []
    logits: list[Tensor] = []
    for scale in options.scales:
        scaled = images if scale == 1 else functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        for axes in _flips(options.flips):
            view_maps, view_logits = class_maps(network, scaled.flip(axes) if axes else scaled, options.kind, options.stage)
            upright = view_maps.flip(axes) if axes else view_maps
            size = maps[0].shape[2:] if maps else upright.shape[2:]
            aligned = upright.shape[2:] == size
            maps.append(upright if aligned else functional.interpolate(upright, size=size, mode="bilinear", align_corners=False))
            logits.append(view_logits)
    return torch.stack(maps).mean(dim=0), torch.stack(logits).mean(dim=0)


def _flips(flips: bool) -> Iterator[tuple[int, ...]]:
    yield ()
    if flips:
        yield from ((3,), (2,), (2, 3))


def _differentiate(network: Classifier, images: Tensor, stage: int | None) -> tuple[Tensor, list[Tensor], Tensor]:
    """Features (B, D, h, w), the gradient of each class's logit by them, and the logits (B, C); all without a graph.

    An image's logits depend on that image alone, so the gradient of their sum over the batch holds each image's own.
    """
    if stage is None:
        with torch.no_grad():
            features = network.features(images)
        features.requires_grad_(True)
        with torch.enable_grad():
            _, logits = network.classify(features)
        return features.detach(), _gradients(logits, features), logits.detach()
    with torch.enable_grad(), network.encoder.captured(stage) as captured:
        _, logits = network(images)
    turn = network.encoder.channels_first
    gradients = [turn(gradient) for gradient in _gradients(logits, captured[0])]
    return turn(captured[0].detach()), gradients, logits.detach()


@torch.enable_grad()
def _gradients(logits: Tensor, features: Tensor) -> list[Tensor]:
    return [torch.autograd.grad(logits[:, index].sum(), features, retain_graph=True)[0] for index in range(logits.shape[1])]


def _weigh(features: Tensor, gradient: Tensor, kind: CamKind) -> Tensor:
    """One class's map: (B, D, h, w) twice → (B, h, w)."""
    if kind == "hires_cam":
        return (gradient * features).sum(dim=1)
    if kind == "grad_cam":
        weight = gradient.mean(dim=(2, 3), keepdim=True)
    else:
        weight = (_alpha(features, gradient) * functional.relu(gradient)).sum(dim=(2, 3), keepdim=True)
    return (weight * features).sum(dim=1)


def _alpha(features: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM++'s α: eq. 19 with g's powers in place of the derivatives of exp(S). 0 where the gradient is."""
    # g² cancels: 2·g² + g³·Σf = g²·(2 + g·Σf). So small gradients do not vanish in their squares.
    denominator = 2 + gradient * features.sum(dim=(2, 3), keepdim=True)
    usable = (gradient != 0) & (denominator != 0)
    return torch.where(usable, 1 / torch.where(usable, denominator, 1), 0)
