"""The sampling of multi-scale deformable attention (Zhu et al. 2021, eq. 3) by gathering: what `grid_sample` computes, without its operator.

GridSample is wrong in TensorRT 10.14…11.1 without an error, and has no CUDA kernel in ONNX Runtime at opset 20 (research: serving.md §4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def multi_scale_deformable_attention(
    value: Tensor, value_spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Sample every level at the locations and add up what was found, weighted.

    Args:
        value: (B, Σ h·w, heads, d), the levels one after the other.
        value_spatial_shapes: (h, w) of each level.
        sampling_locations: (B, Q, heads, levels, points, 2), x and y, 0…1 over a level; outside of it everything is 0.
        attention_weights: (B, Q, heads, levels, points).

    Returns:
        (B, Q, heads·d).
    """
    batch, _, heads, depth = value.shape
    queries, levels, points = sampling_locations.shape[1], sampling_locations.shape[3], sampling_locations.shape[4]
    weights = attention_weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, queries, levels, points)
    locations = sampling_locations.permute(0, 2, 1, 3, 4, 5).reshape(batch * heads, queries, levels, points, 2)
    total = value.new_zeros((batch * heads, queries, depth))
    start = 0
    for level, (height, width) in enumerate(value_spatial_shapes):
        own = value[:, start : start + height * width].permute(0, 2, 1, 3).reshape(batch * heads, height * width, depth)
        start += height * width
        sampled = sample_bilinear(own, height, width, locations[:, :, level])  # (B·heads, Q, points, d)
        total = total + (sampled * weights[:, :, level, :, None]).sum(dim=2)
    return total.reshape(batch, heads, queries, depth).permute(0, 2, 1, 3).reshape(batch, queries, heads * depth).to(value.dtype)


def sample_bilinear(rows: Tensor, height: int, width: int, locations: Tensor) -> Tensor:
    """`grid_sample(mode="bilinear", padding_mode="zeros", align_corners=False)` on flattened maps, its gradients too.

    Args:
        rows: (N, height·width, d).
        locations: (N, Q, points, 2), x and y, 0…1; one that is no finite number gives NaN.

    Returns:
        (N, Q, points, d), float32 or wider.
    """
    # Half precision cannot tell the cells of a large map apart.
    locations = locations.to(torch.promote_types(locations.dtype, torch.float32))
    x = locations[..., 0] * width - 0.5
    y = locations[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    across, below = x - left, y - top  # shares of the right and the lower cell
    total = torch.zeros((), dtype=locations.dtype, device=rows.device)
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            share = (across if right else 1 - across) * (below if down else 1 - below)
            inside = (column >= 0) & (column <= width - 1) & (row >= 0) & (row <= height - 1)
            # Integers: a graph turned to half precision must still count its cells exactly.
            index = torch.where(inside, row, 0).long() * width + torch.where(inside, column, 0).long()
            total = total + _gather(rows, index) * (share * inside.to(share.dtype)).unsqueeze(-1)
    return total


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """(N, L, d) at (N, Q, points) → (N, Q, points, d)."""
    count, queries, points = index.shape
    flat = index.reshape(count, queries * points, 1).expand(-1, -1, rows.shape[2])
    return rows.gather(1, flat).reshape(count, queries, points, rows.shape[2])
