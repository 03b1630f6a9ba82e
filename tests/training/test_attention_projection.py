"""Attention and projection against loops over eq. 2–5."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.attention_projection import AttentionProjection, project, to_grid
from training.errors import RecipeError

DTYPES = (torch.float32, torch.float64)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def module(channels: int, dtype: torch.dtype = torch.float32, scaled: bool = False) -> AttentionProjection:
    torch.manual_seed(0)
    return AttentionProjection(channels, key_channels=5, scaled=scaled).to(dtype)


def naive_attention(layer: AttentionProjection, features: Tensor, kept: Tensor, scaled: bool) -> list[list[list[float]]]:
    """A_ij = exp(q_i·k_j) / Σ_i exp(q_i·k_j), over cells in raster order, of which only the kept are summed over."""
    w_q, w_k = (weight[:, :, 0, 0].tolist() for weight in (layer.query.weight, layer.key.weight))
    images = []
    for b in range(len(features)):
        cells = [features[b, :, y, x].tolist() for y in range(features.shape[2]) for x in range(features.shape[3])]
        q, k = ([[sum(w * f for w, f in zip(row, cell, strict=True)) for row in matrix] for cell in cells] for matrix in (w_q, w_k))
        images.append([[0.0] * len(cells) for _ in cells])
        for j in range(len(cells)):
            root = math.sqrt(5) if scaled else 1.0
            powers = [math.exp(sum(u * v for u, v in zip(q[i], k[j], strict=True)) / root) for i in range(len(cells))]
            sources = [i for i in range(len(cells)) if bool(kept[b].flatten()[i])]
            for i in sources:
                images[b][i][j] = powers[i] / sum(powers[s] for s in sources)
    return images


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (1, 4, 1, 1), (1, 1, 3, 2)])
def test_attention_equals_the_loop(dtype: torch.dtype, scaled: bool, shape: tuple[int, ...]) -> None:
    layer, features = module(shape[1], dtype, scaled), drawn(*shape, dtype=dtype)
    everything = torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    expected = torch.tensor(naive_attention(layer, features, everything, scaled), dtype=dtype)
    torch.testing.assert_close(layer(features), expected)
    torch.testing.assert_close(layer(features, everything), expected)


def test_what_does_not_count_gives_nothing() -> None:
    layer, features = module(3), drawn(2, 3, 2, 4)
    counted = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(1)) > 0.5
    attention = layer(features, counted)
    torch.testing.assert_close(attention, torch.tensor(naive_attention(layer, features, counted, False)))
    assert (attention[~counted.flatten(1)] == 0).all()
    nothing = layer(features, torch.zeros_like(counted))
    torch.testing.assert_close(nothing, torch.full_like(nothing, 1 / 8))


@pytest.mark.parametrize("dtype", DTYPES)
def test_projection_equals_the_loop(dtype: torch.dtype) -> None:
    """M̂_lj = Σ_i (M↓)_li A_ij."""
    maps, attention = drawn(2, 3, 4, 6, dtype=dtype), drawn(2, 6, 6, dtype=dtype, seed=1)
    projected = project(maps, attention, (2, 3))
    for b in range(2):
        for line in range(3):
            down = [float(maps[b, line, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()) for y in range(2) for x in range(3)]
            for j in range(6):
                expected = sum(down[i] * float(attention[b, i, j]) for i in range(6))
                assert float(projected[b, line, j // 3, j % 3]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**16), size=st.sampled_from([(3, 5), (6, 10), (7, 11), (2, 2), (1, 20)]), strength=st.sampled_from([1.0, 50.0]))
def test_a_projected_map_is_a_convex_combination(seed: int, size: tuple[int, int], strength: float) -> None:
    attention = module(3)(drawn(2, 3, 3, 5, seed=seed) * strength)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, 15))
    assert attention.min() >= 0
    maps = torch.rand(2, 4, *size, generator=torch.Generator().manual_seed(seed))
    projected, down = project(maps, attention, (3, 5)), to_grid(maps, (3, 5))
    assert (projected.amax(dim=(2, 3)) <= down.amax(dim=(2, 3)) + 1e-5).all()
    assert (projected.amin(dim=(2, 3)) >= down.amin(dim=(2, 3)) - 1e-5).all()
    torch.testing.assert_close(project(torch.full_like(maps, 0.3), attention, (3, 5)), torch.full((2, 4, 3, 5), 0.3))


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
@pytest.mark.parametrize("size", [(6, 8), (9, 11), (2, 3)])
def test_mirrored_images_have_mirrored_projections(axes: tuple[int, ...], size: tuple[int, int]) -> None:
    layer, features, maps = module(3), drawn(1, 3, 3, 4), drawn(1, 2, *size, seed=1)
    mirrored = project(maps.flip(axes), layer(features.flip(axes)), (3, 4))
    torch.testing.assert_close(mirrored, project(maps, layer(features), (3, 4)).flip(axes))


def test_gradient_reaches_both_matrices_and_the_features() -> None:
    layer, features = module(3, torch.float64), drawn(1, 3, 2, 2, dtype=torch.float64).requires_grad_(True)
    project(drawn(1, 2, 2, 2, dtype=torch.float64, seed=1), layer(features), (2, 2)).square().sum().backward()  # type: ignore[no-untyped-call]
    for parameter in (*layer.parameters(), features):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
    assert torch.autograd.gradcheck(lambda given: layer(given), (features,))


def test_half_precision_stays_finite_where_its_range_ends() -> None:
    """Inner products of 10⁶ are beyond half precision's 65,504."""
    layer = module(3)
    features = drawn(1, 3, 2, 2) * 2e3
    with torch.autocast("cpu", dtype=torch.float16):
        attention = layer(features.half())
        projected = project(torch.rand(1, 2, 4, 4).half(), attention, (2, 2))
    assert attention.dtype == projected.dtype == torch.float32
    assert attention.isfinite().all()
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(1, 4))


def test_maps_are_averaged_down_and_enlarged_smoothly() -> None:
    ramp = torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 4, 4)
    torch.testing.assert_close(to_grid(ramp, (2, 2)), torch.tensor([[[[0.5, 2.5], [0.5, 2.5]]]]))
    torch.testing.assert_close(to_grid(ramp, (4, 8))[0, 0, 0], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]))
    assert to_grid(ramp, (4, 4)) is ramp


def test_errors() -> None:
    with pytest.raises(RecipeError, match="at least one channel"):
        AttentionProjection(0)
    with pytest.raises(RecipeError, match=r"attention among 2×2 cells, got one of \(6, 6\)"):
        project(torch.zeros(1, 2, 4, 4), torch.zeros(1, 6, 6), (2, 2))
