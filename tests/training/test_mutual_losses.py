"""ARML's losses against loops over pixels, pairs and triplets written from eq. 4–8; the targets of networks without a background channel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.channel_targets import channel_targets
from training.datasets.placement import IGNORE_LABEL
from training.mutual_losses import (
    angle_loss,
    distance_loss,
    draw_samples,
    point_loss,
    structure_loss,
    take_samples,
    voting_weights,
    weighted_voting_loss,
)

Array = npt.NDArray[np.float64]
DTYPES = (torch.float32, torch.float64)


def random_maps(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def three(count: int, channels: int = 4, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = (random_maps(count, channels, seed=seed, dtype=dtype) for seed in range(3))
    return a, 3 * b, c  # a peer of another scale


def as_arrays(vectors: tuple[Tensor, Tensor, Tensor]) -> tuple[Array, Array, Array]:
    a, b, c = (one.detach().double().numpy() for one in vectors)
    return a, b, c


def norm(vector: Array) -> float:
    return math.sqrt(sum(float(v) ** 2 for v in vector))


def huber(x: float, y: float, delta: float) -> float:
    gap = abs(x - y)
    return 0.5 * gap**2 if gap <= delta else delta * (gap - 0.5 * delta)


def voting_loop(a: Array, b: Array, c: Array, target: npt.NDArray[np.int64], omega: float) -> float:
    """Eq. 4, averaged over the pixels that count."""
    terms = []
    for n, y, x in np.ndindex(target.shape):
        if target[n, y, x] == IGNORE_LABEL:
            continue
        weight = omega if b[n, :, y, x].argmax() == c[n, :, y, x].argmax() else 1 / omega
        exponentials = [math.exp(v) for v in a[n, :, y, x]]
        terms.append(-weight * math.log(exponentials[target[n, y, x]] / sum(exponentials)))
    return sum(terms) / len(terms) if terms else 0.0


def point_loop(a: Array, b: Array, c: Array) -> float:
    def sm(vector: Array) -> Array:
        exponentials = np.array([math.exp(v) for v in vector])
        shares: Array = exponentials / exponentials.sum()
        return shares

    total = sum(norm(sm(a[i]) - sm(b[i])) + norm(sm(a[i]) - sm(c[i])) for i in range(len(a)))
    return 0.5 * total / len(a)


def distance_loop(a: Array, b: Array, c: Array, delta: float) -> float:
    pairs = [(i, j) for i in range(len(a)) for j in range(len(a)) if i != j]

    def relative(vectors: Array) -> list[float]:
        distances = [norm(vectors[i] - vectors[j]) for i, j in pairs]
        above = [d for d in distances if d > 0]
        return [d * len(above) / sum(above) if above else 0.0 for d in distances]

    own, first, second = relative(a), relative(b), relative(c)
    terms = [huber(x, y, delta) + huber(x, z, delta) for x, y, z in zip(own, first, second, strict=True)]
    return 0.5 * sum(terms) / len(pairs)


def angle_loop(a: Array, b: Array, c: Array, delta: float) -> float:
    triplets = list(itertools.permutations(range(len(a)), 3))

    def cosine(vectors: Array, i: int, j: int, k: int) -> float:
        """At the middle vertex j."""
        to_i, to_k = vectors[i] - vectors[j], vectors[k] - vectors[j]
        return float(to_i @ to_k) / (norm(to_i) * norm(to_k))

    terms = [huber(cosine(a, *t), cosine(b, *t), delta) + huber(cosine(a, *t), cosine(c, *t), delta) for t in triplets]
    return 0.5 * sum(terms) / len(triplets)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("omega", [1.0, 2.0, 5.0])
def test_voting_is_equation_4(dtype: torch.dtype, omega: float) -> None:
    a, b, c = (random_maps(2, 3, 4, 5, seed=seed, dtype=dtype) for seed in range(3))
    target = torch.randint(0, 3, (2, 4, 5), generator=torch.Generator().manual_seed(3))
    target[0, :2] = IGNORE_LABEL
    weights = voting_weights(b, c, omega)
    assert sorted(set(weights.flatten().tolist())) == pytest.approx(sorted({1 / omega, omega}))
    loss = weighted_voting_loss(a, target, weights, IGNORE_LABEL)
    assert loss.dtype == dtype
    assert loss.item() == pytest.approx(voting_loop(*as_arrays((a, b, c)), target.numpy(), omega), rel=1e-5)


def test_an_infinite_omega_leaves_disagreement_out() -> None:
    b, c = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[[2.0, 5.0]], [[0.0, 1.0]]]])
    assert voting_weights(b, c, math.inf).tolist() == [[[1.0, 0.0]]]
    assert voting_weights(b, c, 2.0).tolist() == [[[2.0, 0.5]]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_point_loss_is_equation_5(dtype: torch.dtype, count: int) -> None:
    vectors = three(count, dtype=dtype)
    assert point_loss(*vectors).item() == pytest.approx(point_loop(*as_arrays(vectors)), rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("delta", [1.0, 0.2])
@pytest.mark.parametrize("count", [2, 3, 9])
def test_distance_loss_is_equation_6(dtype: torch.dtype, delta: float, count: int) -> None:
    vectors = three(count, dtype=dtype)
    assert distance_loss(*vectors, delta).item() == pytest.approx(distance_loop(*as_arrays(vectors), delta), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("delta", [1.0, 0.2])
@pytest.mark.parametrize("count", [3, 4, 9])
def test_angle_loss_is_equation_7(dtype: torch.dtype, delta: float, count: int) -> None:
    vectors = three(count, dtype=dtype)
    assert angle_loss(*vectors, delta).item() == pytest.approx(angle_loop(*as_arrays(vectors), delta), rel=1e-5)


def test_structure_loss_is_equation_8_and_each_term_can_be_left_out() -> None:
    vectors = three(7)
    distance, angle = distance_loop(*as_arrays(vectors), 1.0), angle_loop(*as_arrays(vectors), 1.0)
    assert structure_loss(*vectors).item() == pytest.approx(30 * distance + 60 * angle)
    assert structure_loss(*vectors, alpha=2, beta=0).item() == pytest.approx(2 * distance)
    assert structure_loss(*vectors, alpha=0, beta=3).item() == pytest.approx(3 * angle)


def test_vectors_that_coincide_have_no_distance_and_do_not_count_in_the_mean() -> None:
    a, b, c = three(5)
    a[1], b[2] = a[0], b[0]
    assert distance_loss(a, b, c).item() == pytest.approx(distance_loop(*as_arrays((a, b, c)), 1.0))


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(0.1, 50), seed=st.integers(0, 1000))
def test_a_peer_that_is_turned_moved_and_scaled_is_the_same_structure(scale: float, seed: int) -> None:
    a = random_maps(6, 4, seed=seed)
    turn = torch.linalg.qr(random_maps(4, 4, seed=seed + 1)).Q
    peer = scale * a @ turn + 3
    assert structure_loss(a, peer, peer).item() == pytest.approx(0, abs=1e-9)
    assert structure_loss(peer, a, random_maps(6, 4, seed=seed + 2)).item() > 0.1


@pytest.mark.parametrize("loss", [point_loss, distance_loss, angle_loss])
def test_peers_are_detached_and_the_gradient_is_the_function_s(loss: Callable[..., Tensor]) -> None:
    a, b, c = (vectors.requires_grad_(True) for vectors in three(5))
    torch.autograd.backward(loss(a, b, c))
    assert a.grad is not None
    assert (a.grad.abs().amax(dim=1) > 1e-6).all()
    assert b.grad is None
    assert c.grad is None
    assert torch.autograd.gradcheck(lambda vectors: loss(vectors, b.detach(), c.detach()), (a,))


@pytest.mark.parametrize("loss", [point_loss, distance_loss, angle_loss, structure_loss])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_vectors_give_zero_with_a_gradient_path(loss: Callable[..., Tensor], count: int) -> None:
    vectors = torch.ones(count, 3, requires_grad=True)
    value = loss(vectors, torch.ones(count, 3), torch.ones(count, 3))
    torch.autograd.backward(value)
    assert value.item() == 0
    assert vectors.grad is not None
    assert vectors.grad.isfinite().all()


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
@pytest.mark.parametrize("apart", [0.0, 1e-6])
def test_vectors_of_nearly_one_place_do_not_blow_the_gradient_up(loss: Callable[..., Tensor], apart: float) -> None:
    """Saturated pixels have the same logits; the direction between them is noise and its gradient 1 / distance."""
    a, b, c = three(6, dtype=torch.float32)
    usual, near = a.clone().requires_grad_(True), a.clone()
    near[1] = near[0] + apart
    near.requires_grad_(True)
    torch.autograd.backward(loss(usual, b, c))
    torch.autograd.backward(loss(near, b, c))
    assert usual.grad is not None
    assert near.grad is not None
    # A thousandth of the mean distance is the nearest that counts as such.
    assert near.grad.norm() < 1000 * usual.grad.norm()


@pytest.mark.parametrize("loss", [distance_loss, angle_loss])
def test_vectors_that_are_all_one_give_no_nan(loss: Callable[..., Tensor]) -> None:
    a, b, _ = three(4)
    same = a[:1].repeat(4, 1).requires_grad_(True)
    value = loss(same, b, same)
    torch.autograd.backward(value)
    assert value.item() > 0
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_all_ignored_is_zero_with_a_gradient_path() -> None:
    logits = random_maps(1, 3, 2, 2, seed=0).requires_grad_(True)
    loss = weighted_voting_loss(logits, torch.full((1, 2, 2), IGNORE_LABEL), torch.ones(1, 2, 2), IGNORE_LABEL)
    torch.autograd.backward(loss)
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_half_precision_is_computed_in_float32() -> None:
    vectors = three(8, dtype=torch.float32)
    a, b, c = (one.bfloat16() for one in vectors)
    expected = structure_loss(a.float(), b.float(), c.float())
    with torch.autocast("cpu", torch.bfloat16):
        found = structure_loss(a, b, c)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)
    maps = random_maps(1, 3, 2, 2, seed=1).bfloat16()
    target = torch.tensor([[[0, 1], [2, 0]]])
    torch.testing.assert_close(
        weighted_voting_loss(maps, target, voting_weights(maps, maps, 2.0), IGNORE_LABEL),
        weighted_voting_loss(maps.float(), target, torch.full((1, 2, 2), 2.0), IGNORE_LABEL),
    )


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), count=st.integers(3, 12), share=st.floats(0, 1))
def test_draw_is_bounded_valid_without_replacement_and_seeded(seed: int, count: int, share: float) -> None:
    valid = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(seed)) < share
    chosen = draw_samples(valid, count, torch.Generator().manual_seed(seed))
    assert len(chosen) == len(set(chosen.tolist())) == min(count, int(valid.sum()))
    assert valid.flatten()[chosen].all()
    assert torch.equal(chosen, draw_samples(valid, count, torch.Generator().manual_seed(seed)))


def test_draw_is_uniform_and_new_for_every_batch() -> None:
    valid = torch.zeros(2, 3, 4, dtype=torch.bool)
    valid[:, :, 1:3] = True
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(24)
    for _ in range(600):
        counts[draw_samples(valid, 4, generator)] += 1
    assert (counts.view(2, 3, 4)[~valid] == 0).all()
    assert counts.view(2, 3, 4)[valid].min() > 150  # of 200 expected
    assert counts.view(2, 3, 4)[valid].max() < 250


def test_samples_are_the_logits_of_their_pixels() -> None:
    logits = random_maps(2, 3, 4, 5, seed=0)
    positions = torch.tensor([0, 7, 20, 39])
    expected = torch.stack([logits[0, :, 0, 0], logits[0, :, 1, 2], logits[1, :, 0, 0], logits[1, :, 3, 4]])
    assert torch.equal(take_samples(logits, positions), expected)


def test_without_a_background_channel_class_c_is_channel_c_minus_1() -> None:
    target = torch.tensor([[0, 1, 4, IGNORE_LABEL]])
    assert torch.equal(channel_targets(target, has_background=True), target)
    assert channel_targets(target, has_background=False).tolist() == [[IGNORE_LABEL, 0, 3, IGNORE_LABEL]]
