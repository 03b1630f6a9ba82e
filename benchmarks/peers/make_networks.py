"""Makes what every peer runs: one network as a release of a model repository and as a torch program, and a null one. Runs in a process of its own.

    python -m benchmarks.peers.make_networks --output FOLDER --mpp 0.499 [--checkpoint FILE] [--encoder NAME]

Imports torch. The release skips export's parity gate: that all peers say the same is what `bench peers` measures.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from export.canary import canary_tiles
from export.graphs import KindGraphs
from export.release import Draft
from export.repository import publish
from export.signature import labels_signature, network_signature
from export.to_onnx import MAX_BATCH, to_onnx
from export.wrapper import Normalize, SegmentLabels, SegmentNet
from serving.contract import TissueTask
from serving.tasks import get_task
from training.checkpoint import load
from training.segmenter import Segmenter, SegmenterConfig
from training.tissue.patch import draw_patch

NETWORK, NULL = "peers", "peersnull"  # names of the models in the repository
PROGRAM_FILE, NOTES_FILE = "peers.pt2", "networks.json"
_CELL_PX, _WIDTH, _SPREAD = 4, 64, 3.0
_FIRST_SEED = 820_000_000  # far from every seed of a generated data set


@dataclass(frozen=True)
class MakeConfig:
    """A repository with the network and a null one, and the network for torch."""

    output: Path
    """Folder that gets repository/, peers.pt2 and networks.json."""
    mpp: float
    """Of the slide: seeded networks have this scale, so that no peer resamples."""
    checkpoint: Path | None = None
    """Weights; without it they are seeded, which costs the same time."""
    encoder: str = "swin_tiny_patch4_window7_224"
    """Of the seeded network."""
    tile_px: int = 224
    """Of the seeded network."""
    seed: int = 0
    null: bool = True
    """Make the null network too."""


class Cells(nn.Module):
    """TILE → PROBABILITIES alone: what users' own loops ask a network for."""

    def __init__(self, wrapper: SegmentNet) -> None:
        super().__init__()
        self.wrapper = wrapper

    def forward(self, tile: Tensor) -> Tensor:
        levels: Tensor = self.wrapper(tile)[1]
        return levels


class NullNet(nn.Module):
    """TILE → LABELS, PROBABILITIES: the same stripes of classes for every tile, in next to no time."""

    stripes: Tensor

    def __init__(self, task: TissueTask, cell_px: int) -> None:
        super().__init__()
        self.cell_px = cell_px
        side, classes = task.tile_px // cell_px, len(task.classes)
        level = torch.zeros(1, classes + 1, side, side)
        for column in range(side):
            level[0, 1 + column * classes // side, :, column] = 255
        self.register_buffer("stripes", level)

    def forward(self, tile: Tensor) -> tuple[Tensor, Tensor]:
        # The tile decides nothing but the batch's size; one pixel in 16 of one color is all that is touched.
        nothing = (tile[:, :: self.cell_px, :: self.cell_px, :1].float() * 0).permute(0, 3, 1, 2)
        levels = self.stripes + nothing
        first = levels.argmax(dim=1, keepdim=True).float()
        labels = nn.functional.interpolate(first, scale_factor=float(self.cell_px), mode="nearest")
        return labels[:, 0].to(torch.uint8), levels.to(torch.uint8)


def seeded_segmenter(task: TissueTask, encoder: str, seed: int) -> Segmenter:
    """A network with random weights whose classes all occur and differ clearly: its answers can be compared between engines."""
    torch.manual_seed(seed)
    segmenter = Segmenter(
        SegmenterConfig(encoder, (0, 1, 2, 3), len(task.classes), _WIDTH, image_px=task.tile_px, has_background=False)
    ).eval()
    tiles = np.stack([draw_patch(_FIRST_SEED + index, task.tile_px)[0] for index in range(4)])
    with torch.inference_mode():
        logits = segmenter(Normalize(task.normalization)(torch.from_numpy(tiles)))
        mean, deviation = logits.mean(dim=(0, 2, 3)), logits.std(dim=(0, 2, 3))
        scale = _SPREAD / deviation
        segmenter.head.weight.mul_(scale[:, None, None, None])
        assert segmenter.head.bias is not None
        segmenter.head.bias.sub_(mean).mul_(scale)
    return segmenter


def make(config: MakeConfig) -> None:
    """Write everything; `networks.json` last."""
    if config.checkpoint is None:
        task = dataclasses.replace(get_task("demo"), mpp=config.mpp, tile_px=config.tile_px)
        network: nn.Module = seeded_segmenter(task, config.encoder, config.seed)
        cell_px = int(network.cell_px)  # type: ignore[arg-type]
        source = f"{config.encoder} + FPN {_WIDTH}, seed {config.seed}"
    else:
        checkpoint = load(config.checkpoint)
        assert checkpoint.segment_network is not None
        task, network, cell_px = checkpoint.task, checkpoint.segment_network, checkpoint.segment_cell_px
        source = f"{checkpoint.method} of {config.checkpoint.name}"
    wrapper = SegmentNet(network, task.normalization, cell_px)
    _publish(config.output / "repository", NETWORK, wrapper, task, cell_px)
    if config.null:
        _publish(config.output / "repository", NULL, NullNet(task, _CELL_PX), task, _CELL_PX)
    _save_program(config.output / PROGRAM_FILE, Cells(wrapper), task)
    notes = {
        "network": source,
        "parameters": sum(weights.numel() for weights in network.parameters()),
        "tile_px": task.tile_px,
        "mpp": task.mpp,
        "classes": len(task.classes),
        "cell_px": cell_px,
    }
    (config.output / NOTES_FILE).write_text(json.dumps(notes) + "\n", encoding="utf-8")


def _publish(repository: Path, name: str, wrapper: nn.Module, task: TissueTask, cell_px: int) -> None:
    net = to_onnx(wrapper, network_signature("segment", task, cell_px))
    labels = to_onnx(SegmentLabels(cell_px), labels_signature("segment", task, cell_px)) if task.background is not None else None
    graphs = (KindGraphs("segment", cell_px, net, labels, ()),)
    publish(repository, name, Draft(task, "peers", graphs, canary_tiles(task.tile_px), {"command": "bench peers"}))


def _save_program(path: Path, wrapper: nn.Module, task: TissueTask) -> None:
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    example = torch.zeros((2, task.tile_px, task.tile_px, 3), dtype=torch.uint8)
    torch.export.save(torch.export.export(wrapper.eval(), (example,), dynamic_shapes=({0: batch},)), path)


if __name__ == "__main__":
    make(tyro.cli(MakeConfig, prog="make_networks"))
