"""NT-Xent against a loop over its equation; the two losses of pre-training on features that are known."""

from __future__ import annotations

import math

import pytest
import torch

from training.nt_xent import inter_image_loss, intra_image_loss, nt_xent

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}


def naive(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Thesis eq. 3.1 (Chen et al. 2020, eq. 1), anchor by anchor."""
    vectors = [*first.double(), *second.double()]
    count = len(first)

    def similarity(i: int, j: int) -> float:
        return float(vectors[i] @ vectors[j] / (vectors[i].norm() * vectors[j].norm())) / temperature

    total = 0.0
    for i in range(2 * count):
        j = (i + count) % (2 * count)
        total += -similarity(i, j) + math.log(sum(math.exp(similarity(i, k)) for k in range(2 * count) if k != i))
    return total / (2 * count)


def random_pair(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype), torch.randn(*shape, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_the_loop(dtype: torch.dtype, count: int, temperature: float) -> None:
    first, second = random_pair(count, 5, seed=count, dtype=dtype)
    loss = nt_xent(first, second, temperature)
    assert loss.dtype == dtype
    assert float(loss) == pytest.approx(naive(first, second, temperature), rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])


def test_a_pair_alone_has_no_loss_and_equal_views_have_the_least() -> None:
    one = torch.randn(1, 4)
    assert float(nt_xent(one, -one, 0.1)) == 0
    vectors = torch.eye(4)
    assert float(nt_xent(vectors, vectors, 0.1)) < 0.01 < float(nt_xent(vectors, vectors.roll(1, dims=0), 0.1))


def test_the_same_vector_everywhere_tells_nothing_apart() -> None:
    """All similarities are 1: each of the 2N − 1 others is as likely."""
    same = torch.ones(5, 3)
    assert float(nt_xent(same, same, 0.1)) == pytest.approx(math.log(9), rel=1e-5)


def test_cells_without_activation_have_bounded_gradients() -> None:
    first, second = (torch.zeros(3, 4, requires_grad=True), torch.eye(3, 4))
    loss = nt_xent(first, second, 0.1)
    assert loss.isfinite()
    torch.autograd.backward(loss)
    assert first.grad is not None
    assert first.grad.abs().max() < 1e8


def test_half_precision_is_computed_in_single() -> None:
    first, second = (vectors.bfloat16() for vectors in random_pair(6, 16))
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(first, second, 0.1)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(naive(first, second, 0.1), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [1, 3])
def test_intra_compares_cells_within_each_image(dtype: torch.dtype, images: int) -> None:
    features, views = random_pair(images, 6, 2, 4, dtype=dtype)
    expected = sum(naive(own.flatten(1).T, view.flatten(1).T, 0.2) for own, view in zip(features, views, strict=True)) / images
    loss = intra_image_loss(features, views, 0.2, max_cells=100, generator=torch.Generator().manual_seed(2))
    assert float(loss) == pytest.approx(expected, rel=TOLERANCE[dtype])


def test_intra_of_one_cell_is_0() -> None:
    assert float(intra_image_loss(*random_pair(2, 6, 1, 1), 0.1, 8, torch.Generator())) == 0


def test_intra_draws_the_same_cells_of_both_no_more_than_allowed_and_by_its_seed() -> None:
    features, views = random_pair(2, 5, 8, 8)

    def loss(first: torch.Tensor, second: torch.Tensor, seed: int) -> float:
        return float(intra_image_loss(first, second, 0.1, 10, torch.Generator().manual_seed(seed)))

    assert loss(features, features, 0) < loss(features, features.roll(1, dims=3), 0)
    assert loss(features, views, 0) == loss(features, views, 0) != loss(features, views, 1)
    chosen = torch.randperm(64, generator=torch.Generator().manual_seed(0))[:10]
    drawn = [(own.flatten(1).T[chosen], view.flatten(1).T[chosen]) for own, view in zip(features, views, strict=True)]
    assert loss(features, views, 0) == pytest.approx(sum(naive(*pair, 0.1) for pair in drawn) / 2, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [1, 4])
def test_inter_compares_pooled_images_and_gradients_reach_both(dtype: torch.dtype, images: int) -> None:
    features, views = (maps.requires_grad_() for maps in random_pair(images, 6, 3, 3, dtype=dtype))
    loss = inter_image_loss(features, views, 0.3)
    expected = naive(features.mean((2, 3)).detach(), views.mean((2, 3)).detach(), 0.3)
    assert float(loss.detach()) == pytest.approx(expected, rel=TOLERANCE[dtype], abs=TOLERANCE[dtype])
    torch.autograd.backward(loss)
    for maps in (features, views):
        assert maps.grad is not None
        assert (maps.grad.abs().sum() > 0) == (images > 1)  # an image alone has no negatives
