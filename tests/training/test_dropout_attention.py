"""MLPS: progressive dropout attention and the loss of several pseudo-masks, each against a loop."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from training.datasets.placement import IGNORE_LABEL
from training.dropout_attention import DropoutAttentionOptions, ProgressiveDropout, multi_level_loss
from training.errors import RecipeError

DTYPES = (torch.float32, torch.float64)


def naive(features: torch.Tensor, weights: torch.Tensor, gamma: float, kind: str) -> torch.Tensor:
    result = features.clone()
    batch, depth, height, width = features.shape
    for b in range(batch):
        cams = [[[0.0] * width for _ in range(height)] for _ in weights]
        for c, weight in enumerate(weights):
            for y in range(height):
                for x in range(width):
                    cams[c][y][x] = max(0.0, sum(float(weight[d]) * float(features[b, d, y, x]) for d in range(depth)))
        peaks = [max(max(row) for row in cam) for cam in cams]
        for y in range(height):
            for x in range(width):
                at = [cam[y][x] for cam in cams]
                dropped = [value > gamma * peak for value, peak in zip(at, peaks, strict=True)]
                if kind == "mask":
                    factor = 0.0 if any(dropped) else 1.0
                else:
                    factor = sum(0.0 if is_dropped else value for value, is_dropped in zip(at, dropped, strict=True)) / len(at)
                result[b, :, y, x] *= factor
    return result


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["attention", "mask"])
@pytest.mark.parametrize("epoch", [3, 10, 40])
def test_equals_the_loop(dtype: torch.dtype, kind: str, epoch: int) -> None:
    generator = torch.Generator().manual_seed(epoch)
    features = torch.randn(2, 4, 5, 3, generator=generator, dtype=dtype)
    weights = torch.randn(3, 4, generator=generator, dtype=dtype)
    weights[2] = 0  # a class that answers nowhere
    dropout = ProgressiveDropout(DropoutAttentionOptions(kind=kind))  # type: ignore[arg-type]
    dropout.set_epoch(epoch)
    expected = naive(features, weights, max(0.65, 0.98**epoch), kind)
    assert not torch.equal(expected, features)
    torch.testing.assert_close(dropout(features, weights), expected)
    torch.testing.assert_close(dropout(features, weights[:, :, None, None]), expected)  # as a convolution holds them


@pytest.mark.parametrize(("epoch", "gamma"), [(0, 1.0), (1, 0.98), (3, 0.941192), (21, 0.654256), (22, 0.65), (500, 0.65)])
def test_threshold_falls_by_epoch_to_its_floor(epoch: int, gamma: float) -> None:
    dropout = ProgressiveDropout()
    dropout.set_epoch(epoch)
    assert dropout.gamma == pytest.approx(gamma, rel=1e-5)


def test_starts_after_the_third_epoch_and_rests_in_evaluation() -> None:
    features, weights = torch.randn(1, 4, 5, 3), torch.randn(3, 4)
    dropout = ProgressiveDropout()
    untouched = []
    for epoch in range(5):
        dropout.set_epoch(epoch)
        untouched.append(torch.equal(dropout(features, weights), features))
    assert untouched == [True, True, True, False, False]
    assert torch.equal(dropout.eval()(features, weights), features)


def test_a_lower_threshold_drops_more() -> None:
    generator = torch.Generator().manual_seed(0)
    features, weights = torch.rand(1, 4, 12, 12, generator=generator) + 0.1, torch.rand(1, 4, generator=generator)
    dropped = []
    for epoch in (3, 10, 30):
        dropout = ProgressiveDropout()
        dropout.set_epoch(epoch)
        dropped.append(int((dropout(features, weights) == 0).all(dim=1).sum()))
    assert 0 < dropped[0] < dropped[1] < dropped[2]


@pytest.mark.parametrize("kind", ["attention", "mask"])
def test_flips_with_its_features_and_keeps_rows_apart(kind: str) -> None:
    features, weights = torch.randn(3, 4, 5, 6), torch.randn(2, 4)
    dropout = ProgressiveDropout(DropoutAttentionOptions(kind=kind))  # type: ignore[arg-type]
    dropout.set_epoch(12)
    whole = dropout(features, weights)
    torch.testing.assert_close(dropout(features.flip(3), weights), whole.flip(3))
    torch.testing.assert_close(dropout(features[1:2], weights), whole[1:2])


def test_gradient_reaches_features_and_class_weights() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    dropout = ProgressiveDropout()
    dropout.set_epoch(10)
    assert torch.autograd.gradcheck(dropout, (features, weights))
    torch.autograd.backward(dropout(features, weights).sum())
    assert weights.grad is not None
    assert (weights.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize(("decay", "floor"), [(0.0, 0.65), (1.1, 0.65), (0.98, 0.0), (math.nan, 0.5)])
def test_refuses_a_threshold_that_is_none(decay: float, floor: float) -> None:
    with pytest.raises(RecipeError, match="expected decay and floor above 0 and up to 1"):
        DropoutAttentionOptions(decay=decay, floor=floor)


def naive_levels(logits: torch.Tensor, targets: torch.Tensor, weights: tuple[float, ...]) -> float:
    total = 0.0
    for level, weight in enumerate(weights):
        terms = []
        for b in range(len(logits)):
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    label = int(targets[b, level, y, x])
                    if label != IGNORE_LABEL:
                        values = [float(value) for value in logits[b, :, y, x]]
                        terms.append(math.log(sum(math.exp(value) for value in values)) - values[label])
        total += weight * sum(terms) / max(1, len(terms))
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [(0.6, 0.2, 0.2), (1.0,), (0.5, 0.0)])
def test_multi_level_loss_equals_the_loop(dtype: torch.dtype, weights: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=dtype)
    targets = torch.randint(0, 4, (2, len(weights), 3, 5), generator=generator)
    targets[0, 0, 1] = IGNORE_LABEL
    loss = multi_level_loss(logits, targets, weights)
    assert loss.dtype == dtype
    assert float(loss) == pytest.approx(naive_levels(logits, targets, weights), rel=1e-5 if dtype == torch.float32 else 1e-12)


def test_levels_weigh_as_published_and_an_empty_one_adds_nothing() -> None:
    logits = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.randint(0, 4, (2, 3, 5), generator=torch.Generator().manual_seed(1))
    nothing = torch.full_like(target, IGNORE_LABEL)
    single = float(functional.cross_entropy(logits, target))
    for place, share in enumerate((0.6, 0.2, 0.2)):
        levels = torch.stack([target if level == place else nothing for level in range(3)], dim=1)
        assert float(multi_level_loss(logits, levels)) == pytest.approx(share * single)
    assert float(multi_level_loss(logits, torch.stack([nothing] * 3, dim=1))) == 0


@pytest.mark.parametrize("shape", [(2, 2, 3, 5), (2, 3, 5)])
def test_multi_level_loss_wants_a_target_per_weight(shape: tuple[int, ...]) -> None:
    with pytest.raises(RecipeError, match="expected targets of 3 levels, one per weight, got shape"):
        multi_level_loss(torch.randn(2, 4, 3, 5), torch.zeros(shape, dtype=torch.int64))
