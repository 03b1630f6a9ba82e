"""Deformable attention by gathering against torch's grid_sample and transformers' own function: values and gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training import torchvision_schemas  # noqa: F401  must precede transformers
from training.deformable import multi_scale_deformable_attention, sample_bilinear

# Mask2Former's own copy of this function is the one that training.pixel_decoder replaces; transformers keeps the two equal.
from transformers.models.oneformer.modeling_oneformer import multi_scale_deformable_attention as library_attention  # isort: skip

DTYPES = (torch.float32, torch.float64)


def centers(height: int, width: int, dtype: torch.dtype) -> Tensor:
    """(height·width, 2), x and y of every cell's center, 0…1."""
    y, x = torch.meshgrid(
        (torch.arange(height, dtype=dtype) + 0.5) / height, (torch.arange(width, dtype=dtype) + 0.5) / width, indexing="ij"
    )
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


def assert_is_grid_sample(maps: Tensor, locations: Tensor) -> None:
    """Values, and the gradients of maps (N, d, h, w) and locations (N, Q, points, 2)."""
    height, width = maps.shape[2:]
    rows_maps, rows_at = maps.clone().requires_grad_(True), locations.clone().requires_grad_(True)
    grid_maps, grid_at = maps.clone().requires_grad_(True), locations.clone().requires_grad_(True)
    sampled = sample_bilinear(rows_maps.flatten(2).transpose(1, 2), height, width, rows_at)
    expected = functional.grid_sample(grid_maps, 2 * grid_at - 1, mode="bilinear", padding_mode="zeros", align_corners=False).permute(
        0, 2, 3, 1
    )
    torch.testing.assert_close(sampled, expected)
    upstream = torch.randn(sampled.shape, generator=torch.Generator().manual_seed(1), dtype=maps.dtype)
    torch.autograd.backward((sampled, expected), (upstream, upstream))
    torch.testing.assert_close(rows_maps.grad, grid_maps.grad)
    torch.testing.assert_close(rows_at.grad, grid_at.grad)


@settings(deadline=None, max_examples=40)
@given(height=st.integers(1, 6), width=st.integers(1, 7), seed=st.integers(0, 99))
def test_gathering_is_grid_sample(height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
    assert_is_grid_sample(maps, torch.rand(2, 5, 4, 2, generator=generator, dtype=torch.float64) * 2 - 0.5)  # far outside too


@pytest.mark.parametrize("dtype", DTYPES)
def test_gathering_is_grid_sample_on_centers_and_borders(dtype: torch.dtype) -> None:
    # Powers of two, so that a center is exactly one in both dtypes: that is where attention starts, and where a bilinear surface has its folds.
    maps = torch.randn(1, 3, 4, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    corners = torch.tensor(
        [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1 / 16, 0.5], [17 / 16, 0.5], [0.5, 9 / 8], [-3.0, 4.0]], dtype=dtype
    )
    assert_is_grid_sample(maps, torch.cat([centers(4, 8, dtype), corners])[None, :, None])


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_is_the_library_s(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3), (4, 5), (8, 8)]
    value = torch.randn(2, 6 + 20 + 64, 2, 3, generator=generator, dtype=dtype)
    locations = torch.rand(2, 7, 2, 3, 4, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(2, 7, 2, 3, 4, generator=generator, dtype=dtype)
    attended = multi_scale_deformable_attention(value, shapes, locations, weights)
    torch.testing.assert_close(attended, library_attention(value, shapes, locations, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_the_right_cell(dtype: torch.dtype) -> None:
    side = 64  # more cells than either dtype can count
    rows = (torch.arange(side * side) % 97).to(dtype).view(1, -1, 1)
    sampled = sample_bilinear(rows, side, side, centers(side, side, torch.float32).to(dtype)[None, :, None])
    assert torch.equal(sampled[0, :, 0].to(dtype), rows[0])


def test_a_location_that_is_no_number_gives_none_and_hurts_no_other() -> None:
    locations = torch.tensor([[float("nan"), 0.5], [float("inf"), 0.5], [0.5, 0.5]])[None, :, None]
    sampled = sample_bilinear(torch.ones(1, 16, 1), 4, 4, locations).flatten()
    assert sampled.isnan().tolist() == [True, True, False]
    assert float(sampled[2]) == 1
