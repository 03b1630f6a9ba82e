"""Networks small enough to export in a second, with the signatures of training's, and tiles with structure. Knows no test."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from export.canary import canary_tiles
from export.graphs import KindGraphs, export_kind
from export.release import Draft
from serving.contract import TissueTask
from serving.tasks import get_task

SEGMENT_CELL_PX = 4
CAM_CELL_PX = 16
DEMO = get_task("demo")


class SmallSegmenter(nn.Module):
    """Logits (B, C + 1, 56, 56), or (B, C, 56, 56) without background."""

    def __init__(self, classes: int = 4, has_background: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.has_background = has_background
        last = nn.Conv2d(8, classes + has_background, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 7, 4, 3), nn.BatchNorm2d(8), nn.ReLU(), last)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits * 4  # decided enough that labels are not all ties


class SmallClassifier(nn.Module):
    """Class maps (B, C, 14, 14) without bias, logits (B, C)."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 17, 16, 8), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        class_maps = functional.conv2d(self.body(images), self.head.weight)
        assert self.head.bias is not None
        return class_maps, class_maps.mean(dim=(2, 3)) + self.head.bias


class Misnamed(nn.Module):
    """A network that says the opposite of what it answers about its background."""

    def __init__(self, network: SmallSegmenter) -> None:
        super().__init__()
        self.network = network
        self.has_background = not network.has_background

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


class Coupled(nn.Module):
    """Lets the rows of a batch see each other: what a window partition with a frozen batch size does in a subtler way."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + 0.1 * (logits - logits.mean(dim=0, keepdim=True))  # a batch of one is untouched


def tissue_like(count: int, seed: int = 0, tile_px: int = 224) -> npt.NDArray[np.uint8]:
    """uint8 (count, tile_px, tile_px, 3): smooth blobs in pinks, each tile with another hue."""
    generator = np.random.default_rng(seed)
    coarse = generator.uniform(60, 230, (count, 3, 14, 14)).astype(np.float32)
    smooth = functional.interpolate(torch.from_numpy(coarse), size=(tile_px, tile_px), mode="bicubic").clamp(0, 255).numpy()
    grain = generator.normal(0, 4, smooth.shape)
    return np.clip(smooth + grain, 0, 255).transpose(0, 2, 3, 1).astype(np.uint8)


def both_kinds(task: TissueTask = DEMO) -> tuple[KindGraphs, ...]:
    tiles = tissue_like(8)
    classes = len(task.classes)
    return (
        export_kind("segment", SmallSegmenter(classes), task, SEGMENT_CELL_PX, tiles),
        export_kind("cam", SmallClassifier(classes), task, CAM_CELL_PX, tiles),
    )


def draft(graphs: tuple[KindGraphs, ...], task: TissueTask = DEMO) -> Draft:
    return Draft(task, "pscl", graphs, canary_tiles(task.tile_px), {"made_by": "a test"})
