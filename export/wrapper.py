"""The served graphs as torch modules: uint8 tiles in, uint8 masks out, everything between in one graph. Knows no file and no server.

Order of types at both ends (DESIGN "Export"): `float()` is the first operation and `to(uint8)` the last, because TensorRT
refuses other arithmetic on uint8 and integers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.contract import Normalization
from training.cam import labels_from_cam, normalize_cam


class Normalize(nn.Module):
    """uint8 (B, H, W, 3) → normalized float32 (B, 3, H, W)."""

    mean_255: Tensor
    std_255: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.register_buffer("mean_255", _per_channel(normalization.mean))
        self.register_buffer("std_255", _per_channel(normalization.std))

    def forward(self, tile: Tensor) -> Tensor:
        # Contiguous: what torch pools to one cell takes the layout of its input, and of a permuted one that exports as gathers.
        image = tile.float().permute(0, 3, 1, 2).contiguous()
        return (image - self.mean_255) / self.std_255


class SegmentNet(nn.Module):
    """TILE → LABELS (B, H, W), PROBABILITIES (B, C + 1, h, w), both uint8.

    Channel 0 of PROBABILITIES is background: all 0 where the network has no such channel (`has_background`), and then no label is 0: among up to
    254 classes the most probable one rounds to 1 of 255 or more.
    """

    def __init__(self, network: nn.Module, normalization: Normalization, cell_px: int) -> None:
        super().__init__()
        self.normalize = Normalize(normalization)
        self.network = network
        self.cell_px = cell_px
        self.has_background = has_background(network)
        self.eval()

    def forward(self, tile: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(self.normalize(tile))  # (B, C + 1, h, w), or (B, C, h, w) without background
        levels = torch.round(logits.softmax(dim=1) * 255)
        if not self.has_background:
            levels = torch.cat([levels[:, :1] * 0, levels], dim=1)  # zeros of their own would need the batch's size in the graph
        return labels_from_levels(levels, self.cell_px), levels.to(torch.uint8)


class CamNet(nn.Module):
    """TILE → LABELS uint8 (B, H, W) 1…C, CAM float32 (B, C, h, w), SCORES float32 (B, C): thesis eq. 4.3–4.5."""

    def __init__(self, network: nn.Module, normalization: Normalization, cell_px: int) -> None:
        super().__init__()
        self.normalize = Normalize(normalization)
        self.network = network
        self.cell_px = cell_px
        self.eval()

    def forward(self, tile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        class_maps, logits = self.network(self.normalize(tile))
        cam = normalize_cam(class_maps)
        labels = labels_from_cam(upsample(cam, self.cell_px), gate(logits), logits)
        return labels.float().to(torch.uint8), cam, logits.sigmoid()


class SegmentLabels(nn.Module):
    """NET_PROBABILITIES, BACKGROUND → LABELS, PROBABILITIES: `serving.probabilities.add_background`, on levels, where every product is exact."""

    def __init__(self, cell_px: int) -> None:
        super().__init__()
        self.cell_px = cell_px

    def forward(self, net_probabilities: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
        fraction = functional.avg_pool2d(background.float().unsqueeze(1), self.cell_px)  # (B, 1, h, w)
        tissue = net_probabilities.float() * (1 - fraction)
        combined = torch.cat([tissue[:, :1] + fraction * 255, tissue[:, 1:]], dim=1)
        levels = torch.round(combined)
        return labels_from_levels(levels, self.cell_px), levels.to(torch.uint8)


class CamLabels(nn.Module):
    """NET_LABELS, NET_CAM, NET_SCORES, BACKGROUND → LABELS (eq. 4.9), CAM, SCORES.

    CAM and SCORES only pass through, because Triton's pruning breaks an ensemble output that another step reads too.
    """

    def forward(self, net_labels: Tensor, net_cam: Tensor, net_scores: Tensor, background: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        labels = net_labels.float() * (1 - background.float())
        return labels.to(torch.uint8), net_cam.clone(), net_scores.clone()


def has_background(network: nn.Module) -> bool:
    """Whether the network's channel 0 is background: what it says of itself, as `training.segmenter.Segmenter` does; one that says nothing has it.

    A network that answers otherwise than it says does not get past its signature, which has C + 1 channels.
    """
    return bool(getattr(network, "has_background", True))


def gate(logits: Tensor) -> Tensor:
    """`training.cam.gate_by_logits` at 0, written without a choice between booleans: ONNX Runtime has no such `Where`.

    The top class passes whenever any class does, so adding it changes nothing but the case of none. (B, C) → (B, C).
    """
    top = functional.one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    return (logits > 0) | top


def labels_from_levels(levels: Tensor, cell_px: int) -> Tensor:
    """`serving.probabilities.labels_from_levels` on float levels: (B, K, h, w) → uint8 (B, H, W)."""
    return upsample(levels, cell_px).argmax(dim=1).float().to(torch.uint8)


def upsample(cells: Tensor, cell_px: int) -> Tensor:
    """`serving.probabilities.upsample`: bilinear, half-pixel centers, clamped edges; exact on integers."""
    return functional.interpolate(cells, scale_factor=float(cell_px), mode="bilinear", align_corners=False)


def _per_channel(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1) * 255
