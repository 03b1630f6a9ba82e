"""UNet++ (Zhou et al. 2018) and PSPNet (Zhao et al. 2017) decoders, from segmentation-models-pytorch, on the pyramid of any encoder. Knows no task.

What the library takes is its own encoders' list of features: first the input, which both decoders drop, then one feature per stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from . import torchvision_schemas  # noqa: F401  must precede timm, which the library imports
from .errors import EncoderError

from segmentation_models_pytorch.base.initialization import initialize_decoder  # isort: skip
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder  # isort: skip
from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder  # isort: skip

Attention = Literal["scse"]
_SQUEEZE = 16  # the library's scSE divides channels by it
_POOL_BRANCHES = 4  # of PSPNet: 1×1, 2×2, 3×3 and 6×6 cells


class UnetPlusPlus(nn.Module):
    """Pyramid of strides s, 2s, 4s, … → (B, width, H / (s / 2), W / (s / 2)): nested skip connections, each step twice as fine as the one before.

    The last step goes beyond the shallowest stage: encoders that begin at stride 2 give an answer per pixel. Channels halve on the way up, so
    that five stages and a width of 16 are the library's own 256, 128, 64, 32, 16.

    Attributes:
        stride: input pixels per output cell.

    Args:
        width: channels of the output.
        attention: scse squeezes and excites channels and places in every block (Roy et al. 2018), as PistoSeg's networks do.

    Raises:
        EncoderError: fewer than two stages, strides that do not double, or too few channels for the attention.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int, attention: Attention | None = None) -> None:
        super().__init__()
        if len(strides) < 2 or strides[0] < 2 or any(deep != 2 * shallow for shallow, deep in pairwise(strides)):
            raise EncoderError(
                f"UNet++ decoder: expected two or more decoder stages, each of twice the stride before, got {tuple(strides)}"
            )
        if attention is not None and min(width, *channels) < _SQUEEZE:
            least = min(width, *channels)
            raise EncoderError(f"UNet++ decoder: expected at least {_SQUEEZE} channels everywhere for attention {attention}, got {least}")
        self.stride = strides[0] // 2
        blocks = len(channels)
        steps = [width * 2 ** (blocks - 1 - index) for index in range(blocks)]
        self.body = UnetPlusPlusDecoder((0, *channels), steps, blocks, attention_type=attention)
        # The last block has no skip connection to join, and the library applies its first attention to the joined features alone.
        self.body.blocks[f"x_0_{blocks - 1}"].attention1 = nn.Identity()
        initialize_decoder(self.body)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        result: Tensor = self.body([pyramid[0], *pyramid])
        return result


class PspNet(nn.Module):
    """The deepest stage of a pyramid, alone → (B, width, h, w) on its own grid: averaged over 1, 2, 3 and 6 cells a side, and fused.

    PSPNet wants a stride of 8 (Zhao et al. 2017, §3.2): give stages down to that one, or a dilated encoder such as resnet38.
    The branch of a single cell goes without batch normalization in the library, which would have one value per channel to normalize with.

    Attributes:
        stride: input pixels per output cell.

    Args:
        width: channels of the output; 512 is the library's.

    Raises:
        EncoderError: a number of channels that the four branches cannot share.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], width: int) -> None:
        super().__init__()
        if channels[-1] % _POOL_BRANCHES:
            raise EncoderError(f"PSPNet decoder: expected a deepest stage of a multiple of {_POOL_BRANCHES} channels, got {channels[-1]}")
        self.stride = strides[-1]
        self.body = PSPDecoder(list(channels), out_channels=width)
        blocks = self.body.psp.blocks
        self.body.psp.blocks = nn.ModuleList(PyramidBranch(block.pool[1], block.pool[0].output_size[0]) for block in blocks)
        initialize_decoder(self.body)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        result: Tensor = self.body(pyramid)
        return result


class PyramidBranch(nn.Module):
    """A branch of the pyramid pooling: average over cells × cells, project, bilinearly back to the grid (corners aligned).

    Both resamplings are products with constant matrices: torch exports an adaptive pooling whose cells do not divide the grid as gathers and
    masks, and a resize to a given size as arithmetic on shapes.
    """

    def __init__(self, project: nn.Module, cells: int) -> None:
        super().__init__()
        self.project = project
        self.cells = cells

    def forward(self, feature: Tensor) -> Tensor:
        """(B, D, h, w) → (B, D / 4, h, w)."""
        height, width = feature.shape[2:]
        pooled = _constant(pool_shares(height, self.cells), feature) @ feature @ _constant(pool_shares(width, self.cells), feature).T
        projected: Tensor = self.project(pooled)
        rows, columns = _constant(resize_shares(self.cells, height), feature), _constant(resize_shares(self.cells, width), feature)
        return rows @ projected @ columns.T


def pool_shares(length: int, cells: int) -> list[list[float]]:
    """`nn.AdaptiveAvgPool1d(cells)` as a matrix (cells, length): cell i averages the places ⌊i·n/k⌋ … ⌈(i+1)·n/k⌉ − 1."""
    spans = [(index * length // cells, -(-(index + 1) * length // cells)) for index in range(cells)]
    return [[(first <= place < last) / (last - first) for place in range(length)] for first, last in spans]


def resize_shares(cells: int, length: int) -> list[list[float]]:
    """Linear interpolation with aligned corners as a matrix (length, cells): place i lies at i·(k − 1)/(n − 1)."""
    positions = [place * (cells - 1) / max(1, length - 1) for place in range(length)]
    return [[max(0.0, 1 - abs(position - cell)) for cell in range(cells)] for position in positions]


def _constant(matrix: list[list[float]], like: Tensor) -> Tensor:
    return torch.tensor(matrix, dtype=like.dtype, device=like.device)
