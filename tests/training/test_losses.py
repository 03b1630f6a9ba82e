from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.training import reference
from training.cam import IGNORE
from training.supcon import PsclLoss, draw_balanced


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_pscl_agrees_with_a_loop_over_equation_4_8(dtype: torch.dtype, temperature: float) -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(2, 8, 3, 4, generator=generator, dtype=dtype)
    labels = torch.randint(-1, 4, (2, 3, 4), generator=generator)
    labels[0, 0, 0] = 7  # an anchor without a positive: in the denominators, not in the mean
    kept = labels != IGNORE
    expected = reference.supcon(features.permute(0, 2, 3, 1)[kept].double().numpy(), labels[kept].tolist(), temperature)
    torch.testing.assert_close(PsclLoss(temperature)(features, labels).double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "labels", [torch.full((1, 2, 2), IGNORE), torch.tensor([[[0, 1], [2, 3]]]), torch.tensor([[[0, IGNORE], [IGNORE, IGNORE]]])]
)
def test_pscl_is_zero_and_differentiable_where_no_vector_has_a_positive(labels: torch.Tensor) -> None:
    features = torch.randn(1, 4, 2, 2, requires_grad=True)
    loss = PsclLoss()(features, labels)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None


def test_pscl_pulls_a_class_together() -> None:
    features = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(16).view(1, 4, 4) % 2
    loss_function = PsclLoss()
    before = loss_function(features, labels)
    before.backward()
    assert features.grad is not None
    stepped = (features - 0.5 * features.grad).detach()
    assert loss_function(stepped, labels) < before.detach()


def test_draw_is_bounded_balanced_and_seeded() -> None:
    classes = torch.tensor([0] * 900 + [1] * 90 + [2] * 10)
    chosen = draw_balanced(classes, 100, torch.Generator().manual_seed(5))
    assert len(chosen) == len(set(chosen.tolist())) == 100
    assert torch.bincount(classes[chosen]).tolist() == [45, 45, 10]
    again = draw_balanced(classes, 100, torch.Generator().manual_seed(5))
    assert torch.equal(chosen, again)


def test_multilabel_soft_margin_is_the_thesis_loss() -> None:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (5, 4), generator=generator).double()
    expected = reference.multilabel_soft_margin(logits.numpy(), labels.numpy())
    assert functional.multilabel_soft_margin_loss(logits, labels).item() == pytest.approx(expected)
