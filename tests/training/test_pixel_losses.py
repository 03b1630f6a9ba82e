"""Binary cross-entropy and Dice against loops over pixels; what is ignored counts nowhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.pixel_losses import binary_cross_entropy, dice_loss
from training.schedule import Schedule, decay_factor

IGNORE = 255


def naive_bce(logits: Tensor, target: Tensor) -> float:
    terms = []
    for image in range(len(target)):
        for y in range(target.shape[1]):
            for x in range(target.shape[2]):
                truth = int(target[image, y, x])
                if truth == IGNORE:
                    continue
                for channel in range(logits.shape[1]):
                    p = 1 / (1 + math.exp(-float(logits[image, channel, y, x])))
                    terms.append(-math.log(p if truth == channel else 1 - p))
    return sum(terms) / len(terms) if terms else 0.0


def naive_dice(logits: Tensor, target: Tensor) -> float:
    losses = []
    for channel in range(logits.shape[1]):
        shared = predicted = true = 0.0
        for image in range(len(target)):
            for y in range(target.shape[1]):
                for x in range(target.shape[2]):
                    truth = int(target[image, y, x])
                    if truth == IGNORE:
                        continue
                    exps = [math.exp(float(value)) for value in logits[image, :, y, x]]
                    p = exps[channel] / sum(exps)
                    predicted += p
                    true += truth == channel
                    shared += p * (truth == channel)
        if true:
            losses.append(1 - 2 * shared / (predicted + true))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ignored", ["none", "some", "all"])
@pytest.mark.parametrize(("loss", "naive"), [(binary_cross_entropy, naive_bce), (dice_loss, naive_dice)])
def test_equals_the_loop(loss, naive, dtype: torch.dtype, ignored: str) -> None:  # type: ignore[no-untyped-def]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(True)
    target = torch.randint(2, (2, 4, 5), generator=generator)  # channel 2 is never there
    if ignored != "none":
        target = torch.where(torch.rand(target.shape, generator=generator) < (0.3 if ignored == "some" else 2), IGNORE, target)
    value = loss(logits, target, IGNORE)
    assert value.item() == pytest.approx(naive(logits.detach(), target), rel=1e-4, abs=1e-7)
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[(target == IGNORE)[:, None].expand_as(logits)] == 0).all()


def test_half_precision_does_not_overflow() -> None:
    logits = torch.full((1, 2, 256, 256), 40.0, dtype=torch.float16)
    target = torch.zeros(1, 256, 256, dtype=torch.long)
    assert float(binary_cross_entropy(logits, target, IGNORE)) == pytest.approx(20, rel=1e-3)
    assert float(dice_loss(logits, target, IGNORE)) == pytest.approx(1 / 3, rel=1e-3)


def test_the_learning_rate_decays_per_iteration_and_per_epoch() -> None:
    schedule = Schedule(power=0.0, epoch_decay=0.9, epochs=4)
    assert [round(decay_factor(schedule, step, 8), 4) for step in range(8)] == [1, 1, 0.9, 0.9, 0.81, 0.81, 0.729, 0.729]
    assert decay_factor(Schedule(power=0.5), 6, 8) == pytest.approx(0.5)
    assert decay_factor(Schedule(power=1.0, epoch_decay=0.5, epochs=2), 4, 8) == pytest.approx(0.25)
