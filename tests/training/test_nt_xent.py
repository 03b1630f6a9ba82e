"""NT-Xent against a loop over its equation; the two losses of pre-training on features that are known."""

from __future__ import annotations

import math

import pytest
import torch

from training.nt_xent import inter_image_loss, intra_image_loss, nt_xent


def naive(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Chen et al. 2020, eq. 1, anchor by anchor."""
    vectors = [*first, *second]
    count = len(first)

    def similarity(i: int, j: int) -> float:
        return float(vectors[i] @ vectors[j] / (vectors[i].norm() * vectors[j].norm())) / temperature

    total = 0.0
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        total += -similarity(i, j) + math.log(sum(math.exp(similarity(i, k)) for k in range(2 * count) if k != i))
    return total / (2 * count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_the_loop(dtype: torch.dtype, count: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(count)
    first, second = (torch.randn(count, 5, generator=generator, dtype=dtype) for _ in range(2))
    assert float(nt_xent(first, second, temperature)) == pytest.approx(naive(first, second, temperature), rel=1e-4, abs=1e-5)


def test_a_pair_alone_has_no_loss_and_equal_views_have_the_least() -> None:
    one = torch.randn(1, 4)
    assert float(nt_xent(one, -one, 0.1)) == 0
    vectors = torch.eye(4)
    assert float(nt_xent(vectors, vectors, 0.1)) < 0.01 < float(nt_xent(vectors, vectors.roll(1, dims=0), 0.1))


def test_intra_compares_cells_within_each_image() -> None:
    features = torch.randn(3, 6, 2, 4, generator=torch.Generator().manual_seed(0))
    views = torch.randn(3, 6, 2, 4, generator=torch.Generator().manual_seed(1))
    expected = sum(naive(own.flatten(1).T, view.flatten(1).T, 0.2) for own, view in zip(features, views, strict=True)) / 3
    loss = intra_image_loss(features, views, 0.2, max_cells=100, generator=torch.Generator().manual_seed(2))
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_intra_draws_the_same_cells_of_both_and_no_more_than_allowed() -> None:
    features = torch.randn(2, 5, 8, 8)
    aligned = intra_image_loss(features, features, 0.1, 10, torch.Generator().manual_seed(0))
    shifted = intra_image_loss(features, features.roll(1, dims=3), 0.1, 10, torch.Generator().manual_seed(0))
    assert float(aligned) < float(shifted)


def test_inter_compares_pooled_images_and_gradients_reach_both() -> None:
    features, views = (torch.randn(4, 6, 3, 3, requires_grad=True) for _ in range(2))
    loss = inter_image_loss(features, views, 0.3)
    assert float(loss.detach()) == pytest.approx(naive(features.mean((2, 3)).detach(), views.mean((2, 3)).detach(), 0.3), rel=1e-4)
    torch.autograd.backward(loss)
    assert features.grad is not None
    assert views.grad is not None
    assert features.grad.abs().sum() > 0
    assert views.grad.abs().sum() > 0
