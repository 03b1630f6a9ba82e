"""Every kind of encoder and decoder through the gate in fp32 and in fp16, with random weights and small images: what may be published at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from export.convert import PrecisionOptions
from export.graphs import export_kind
from export.runtime import Graph
from serving.contract import LABELS, TILE, Kind
from tests.export.networks import DEMO, tissue_like
from training.classifier import Classifier, ClassifierConfig
from training.segmenter import Segmenter, SegmenterConfig

pytestmark = pytest.mark.slow

TILE_PX = 64
SMALL = dataclasses.replace(DEMO, tile_px=TILE_PX)
TILES = tissue_like(8, seed=3, tile_px=TILE_PX)
SWIN, SWIN_2, CONVNEXT = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "convnext_atto"

SEGMENTERS = {
    "convnext, mask2former": SegmenterConfig(CONVNEXT, (0, 1, 2, 3), 4, 32, "mask2former", image_px=TILE_PX, decoder_layers=1),
    "swin, fpn": SegmenterConfig(SWIN, (0, 1, 2), 4, 32, image_px=TILE_PX),
    "resnet50, unet++": SegmenterConfig("resnet50", (0, 1, 2, 3), 4, 16, "unetplusplus", image_px=TILE_PX, has_background=False),
    "resnet38, pspnet": SegmenterConfig("resnet38", (2,), 4, 16, "pspnet", image_px=TILE_PX, has_background=False),
}
CLASSIFIERS = {
    "swin v2": ClassifierConfig(SWIN_2, (3,), num_classes=4, image_px=TILE_PX),
    "resnet50 with criss-cross attention": ClassifierConfig("resnet50", (3,), num_classes=4, image_px=TILE_PX, relocalize=True),
}


class Decided(nn.Module):
    """Logits moved and scaled, class by class, to mean 0 and deviation 2 on the tiles: random weights give every pixel to one class by a hair."""

    def __init__(self, network: Segmenter, images: Tensor) -> None:
        super().__init__()
        self.network = network
        self.has_background = network.has_background
        with torch.no_grad():
            logits = network(images)
        mean, deviation = (getattr(logits, of)(dim=(0, 2, 3), keepdim=True) for of in ("mean", "std"))
        self.register_buffer("mean", mean)
        self.register_buffer("factor", 2 / deviation)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = (self.network(images) - self.mean) * self.factor
        return logits


class Opinionated(nn.Module):
    """Class maps as they are, logits of each class moved and scaled to mean 0 and deviation 2 over the tiles: gates open and close, none by a hair."""

    def __init__(self, network: Classifier, images: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            _, logits = network.classify(network.features(images))
        self.register_buffer("mean", logits.mean(dim=0))
        self.register_buffer("factor", 2 / logits.std(dim=0))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        class_maps, logits = self.network(images)
        return class_maps, (logits - self.mean) * self.factor


def normalized(tiles: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (SMALL.normalization.mean, SMALL.normalization.std))
    return (torch.from_numpy(tiles).permute(0, 3, 1, 2).float() - mean) / std


def pass_gate(kind: Kind, network: nn.Module, cell_px: int) -> None:
    """The way to fp16 goes through the gate of fp32; both raise where a figure is outside its limit."""
    half = export_kind(kind, network, SMALL, cell_px, TILES, PrecisionOptions("fp16", rounds=0))
    assert len(np.unique(Graph(half.net).run({TILE: TILES})[LABELS])) > 1  # else agreement says nothing
    assert half.cost is not None
    assert half.cost.bytes_candidate < 0.62 * half.cost.bytes_fp32
    assert half.cost.figures["logits_max_abs"] > 0  # it did compute in half precision


@pytest.mark.parametrize("name", SEGMENTERS)
def test_segmenters_pass_in_fp32_and_fp16(name: str) -> None:
    torch.manual_seed(0)
    network = Segmenter(SEGMENTERS[name]).eval()
    pass_gate("segment", Decided(network, normalized(TILES)).eval(), network.cell_px)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_cam_networks_pass_in_fp32_and_fp16(name: str) -> None:
    torch.manual_seed(0)
    network = Classifier(CLASSIFIERS[name]).eval()
    pass_gate("cam", Opinionated(network, normalized(TILES)).eval(), network.cell_px)
