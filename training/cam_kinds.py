"""Class maps of a classifier by four definitions behind one signature, and their average over flips and scales. Knows no label.

Each is a weighting of the features f that the head reads: Σ_d w_d·f_d, before ReLU and normalization (`training.cam.normalize_cam`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .classifier import Classifier

CamKind = Literal["cam", "grad_cam", "grad_cam_pp", "hires_cam"]


@dataclass(frozen=True)
class CamOptions:
    """How class maps are computed where pseudo-masks are made; the served graph holds the plain CAM."""

    kind: CamKind = "cam"
    flips: bool = True
    """Average over the image and its mirror images."""
    scales: tuple[float, ...] = (1.0,)
    """Average over sizes of the image."""


def class_maps(network: Classifier, images: Tensor, kind: CamKind) -> tuple[Tensor, Tensor]:
    """Class maps (B, C, h, w) without bias and logits (B, C) of normalized images (B, 3, H, W). No graph is kept.

    `cam` (Zhou et al. 2016, thesis eq. 4.3): the head's weights. `grad_cam` (Selvaraju et al. 2017, eq. 1–2): gradients of the logit, averaged over the
    map. `grad_cam_pp` (Chattopadhay et al. 2018, eq. 10, 19): positive gradients weighted by α. `hires_cam` (Draelos & Carin 2020, eq. 4): gradient
    times feature, position by position. With global average pooling and a linear head, grad_cam and hires_cam are cam / (h·w).
    """
    with torch.no_grad():
        features = network.features(images)
    if kind == "cam":
        with torch.no_grad():
            return network.classify(features)
    features.requires_grad_(True)
    with torch.enable_grad():
        _, logits = network.classify(features)
        gradients = [torch.autograd.grad(logits[:, index].sum(), features, retain_graph=True)[0] for index in range(logits.shape[1])]
    features = features.detach()
    maps = torch.stack([_weigh(features, gradient, kind) for gradient in gradients], dim=1)
    return maps, logits.detach()


def averaged_class_maps(network: Classifier, images: Tensor, options: CamOptions) -> tuple[Tensor, Tensor]:
    """Class maps and logits averaged over the views (mirrored left–right, upside down and both; sizes), each map brought back to where
    the image's pixels lie, on the grid of the first size.
    """
    maps: list[Tensor] = []
    logits: list[Tensor] = []
    for scale in options.scales:
        scaled = images if scale == 1 else functional.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        for axes in _flips(options.flips):
            view_maps, view_logits = class_maps(network, scaled.flip(axes) if axes else scaled, options.kind)
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


def _weigh(features: Tensor, gradient: Tensor, kind: CamKind) -> Tensor:
    """One class's map: (B, D, h, w) twice → (B, h, w)."""
    if kind == "hires_cam":
        return (gradient * features).sum(dim=1)
    if kind == "grad_cam":
        weight = gradient.mean(dim=(2, 3), keepdim=True)
    else:
        squared, cubed = gradient**2, gradient**3
        denominator = 2 * squared + (features * cubed).sum(dim=(2, 3), keepdim=True)
        alpha = torch.where(denominator == 0, torch.zeros_like(squared), squared / torch.where(denominator == 0, 1, denominator))
        weight = (alpha * functional.relu(gradient)).sum(dim=(2, 3), keepdim=True)
    return (weight * features).sum(dim=1)
