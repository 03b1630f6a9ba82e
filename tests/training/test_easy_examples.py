"""OEEM's loss against a loop over its equation."""

from __future__ import annotations

import math

import pytest
import torch

from training.datasets.placement import IGNORE_LABEL
from training.easy_examples import easy_example_loss

DTYPES = (torch.float32, torch.float64)


def cross_entropy(scores: torch.Tensor, label: int) -> float:
    values = [float(value) for value in scores]
    return math.log(sum(math.exp(value) for value in values)) - values[label]


def naive(logits: torch.Tensor, target: torch.Tensor) -> float:
    total, pixels = 0.0, 0
    for image, labels in zip(logits, target, strict=True):
        places = [(y, x) for y in range(labels.shape[0]) for x in range(labels.shape[1]) if labels[y, x] != IGNORE_LABEL]
        losses = [cross_entropy(image[:, y, x], int(labels[y, x])) for y, x in places]
        pixels += len(places)
        if len({int(labels[y, x]) for y, x in places}) < 2:
            total += sum(losses)
            continue
        mean_ease = sum(math.exp(-loss) for loss in losses) / len(losses)
        total += sum(math.exp(-loss) / mean_ease * loss for loss in losses)
    return total / max(1, pixels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 5])
def test_equals_the_loop(dtype: torch.dtype, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, channels, 3, 5, generator=generator, dtype=dtype)
    target = torch.randint(0, channels, (4, 3, 5), generator=generator)
    target[0, 0] = IGNORE_LABEL
    target[1] = 1  # a single class: no weights
    target[2] = IGNORE_LABEL  # nothing
    loss = easy_example_loss(logits, target, IGNORE_LABEL)
    assert loss.dtype == dtype
    assert float(loss) == pytest.approx(naive(logits, target), rel=1e-5 if dtype == torch.float32 else 1e-12)


def test_a_single_class_among_ignored_pixels_keeps_its_weight() -> None:
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.tensor([[[2, 2], [IGNORE_LABEL, 2]]])
    plain = torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE_LABEL)
    torch.testing.assert_close(easy_example_loss(logits, target, IGNORE_LABEL), plain)


def test_an_easier_pixel_teaches_more_and_the_weights_are_constants() -> None:
    """Two pixels: the gradient of each is its weight times that of its own cross-entropy, the softmax minus the label, over 2."""
    logits = torch.tensor([[2.0, 0.0], [-1.0, 0.0]], dtype=torch.float64).T.reshape(1, 2, 1, 2).requires_grad_(True)
    target = torch.tensor([[[0, 1]]])
    losses = [cross_entropy(logits[0, :, 0, place].detach(), label) for place, label in ((0, 0), (1, 1))]
    torch.autograd.backward(easy_example_loss(logits, target, IGNORE_LABEL))
    assert logits.grad is not None
    scale = (math.exp(-losses[0]) + math.exp(-losses[1])) / 2
    for place in (0, 1):
        softmax = logits.detach()[0, :, 0, place].softmax(dim=0)
        expected = math.exp(-losses[place]) / scale * (softmax - torch.eye(2, dtype=torch.float64)[place]) / 2
        torch.testing.assert_close(logits.grad[0, :, 0, place], expected)


def test_weights_average_one() -> None:
    """A constant loss is weighted as if it were not: the mean of the weights is what multiplies it."""
    logits = torch.zeros(2, 3, 4, 4)
    target = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    assert float(easy_example_loss(logits, target, IGNORE_LABEL)) == pytest.approx(math.log(3), rel=1e-6)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16, torch.float16])
def test_stays_finite_where_a_label_is_hopeless(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 2, 8, 8, dtype=dtype)
    logits[0, 0, 0, 0] = 2e4
    logits.requires_grad_(True)
    target = torch.zeros(1, 8, 8, dtype=torch.int64)
    target[0, 0, 0] = 1
    loss = easy_example_loss(logits, target, IGNORE_LABEL)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == pytest.approx(math.log(2), rel=1e-3)  # the hopeless pixel has no weight
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[0, :, 0, 0].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_learned_from_ignored_pixels(dtype: torch.dtype) -> None:
    logits = torch.randn(1, 3, 2, 2, dtype=dtype, requires_grad=True)
    loss = easy_example_loss(logits, torch.full((1, 2, 2), IGNORE_LABEL), IGNORE_LABEL)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
