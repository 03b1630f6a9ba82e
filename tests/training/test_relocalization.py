"""Activation relocalization against ARML eq. 3 written out, in the classifier too: every parameter is trained, stored networks still load."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from serving.tasks import get_task
from training.checkpoint import Checkpoint, load, save
from training.classifier import Classifier, ClassifierConfig
from training.relocalization import Relocalization
from training.schedule import Schedule, make_optimizer

RELOCALIZING = ClassifierConfig("test_resnet", (2, 3), 4, relocalize=True)


def seeded(channels: int = 6, key_channels: int = 2, gamma: bool = False) -> Relocalization:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Relocalization(channels, key_channels, gamma)


def random_features(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width"), [(4, 9), (1, 1)])
def test_reactivation_is_equation_3(dtype: torch.dtype, height: int, width: int) -> None:
    module = seeded().to(dtype)
    features = random_features(2, 6, height, width, dtype=dtype)
    with torch.no_grad():
        contexts = module.attention(features).double().numpy()
        relocalized = module(features)
    kernel = module.gate.weight.detach().double().numpy()[0, 0]
    assert module.gate.bias is not None
    expected = np.zeros_like(contexts)
    for image, context in enumerate(contexts):
        for y in range(height):
            for x in range(width):
                strength = module.gate.bias.item()
                for v in range(7):
                    for u in range(7):
                        if 0 <= y + v - 3 < height and 0 <= x + u - 3 < width:
                            strength += kernel[v, u] * context[:, y + v - 3, x + u - 3].mean()
                expected[image, :, y, x] = context[:, y, x] * math.exp(-strength)
    torch.testing.assert_close(relocalized, torch.from_numpy(expected).to(dtype))


def test_strong_places_are_restrained_and_weak_ones_grow() -> None:
    module = seeded().double()
    with torch.no_grad():
        module.gate.weight.zero_()
        module.gate.weight[0, 0, 3, 3] = 1  # strength = the channels' mean at the place
        module.attention.value.weight.zero_()
        module.gate.bias = module.attention.value.bias = None
        features = torch.tensor([2.0, -1.0], dtype=torch.float64).view(1, 1, 1, 2).expand(1, 6, 1, 2)
        torch.testing.assert_close(module(features)[0, 0, 0], torch.tensor([2 * math.exp(-2), -math.exp(1)], dtype=torch.float64))


def test_half_precision_does_not_overflow() -> None:
    module = seeded().half()
    features = torch.full((1, 6, 5, 5), -500.0).half()
    with torch.no_grad():
        module.gate.weight.fill_(1.0)  # −strength near 10⁴ without the bound
        assert module(features).isfinite().all()


@pytest.mark.parametrize("axes", [(2,), (3,), (2, 3)])
def test_a_mirrored_map_is_relocalized_alike(axes: tuple[int, ...]) -> None:
    module = seeded().double()
    with torch.no_grad():  # a convolution mirrors only where its kernel does
        module.gate.weight.copy_(torch.stack([module.gate.weight.flip(flips) for flips in ((), (2,), (3,), (2, 3))]).mean(dim=0))
    features = random_features(1, 6, 5, 8)
    torch.testing.assert_close(module(features.flip(axes)), module(features).flip(axes))


@pytest.mark.parametrize("gamma", [False, True])
def test_every_parameter_is_trained(gamma: bool) -> None:
    """The published code's attention and gate never left their start."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = Classifier(RELOCALIZING)
        if gamma:
            network.relocalization = Relocalization(sum(network.encoder.channels), 4, gamma=True)
        images = torch.randn(4, 3, 64, 64)
    ours = dict(network.relocalization.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in ours.items()}
    # No weight decay, which moves a parameter that has no gradient.
    optimizer = make_optimizer(network.parameters(), Schedule("sgd", 0.1, weight_decay=0, power=0), total_steps=2)["optimizer"]
    for _ in range(2 if gamma else 1):
        optimizer.zero_grad()
        torch.autograd.backward(functional.multilabel_soft_margin_loss(network(images)[1], torch.eye(4)))
        optimizer.step()
    assert len(ours) == (8 if gamma else 7)
    assert [name for name, parameter in ours.items() if torch.equal(parameter, before[name])] == []


def test_maps_are_of_the_relocalized_features() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, relocalizing = Classifier(dataclasses.replace(RELOCALIZING, relocalize=False)).eval(), Classifier(RELOCALIZING).eval()
    relocalizing.load_state_dict(plain.state_dict(), strict=False)
    images = random_features(2, 3, 64, 64, dtype=torch.float32)
    with torch.no_grad():
        features = relocalizing.features(images)
        torch.testing.assert_close(features, relocalizing.relocalization(plain.features(images)))
        class_maps, _ = relocalizing(images)
        torch.testing.assert_close(class_maps, functional.conv2d(features, relocalizing.head.weight))
    assert not torch.allclose(class_maps, plain(images)[0])


def test_stored_networks_load_with_and_without(tmp_path: Path) -> None:
    for relocalize in (False, True):
        network = Classifier(dataclasses.replace(RELOCALIZING, relocalize=relocalize)).eval()
        path = tmp_path / f"{relocalize}.pt"
        save(path, Checkpoint(get_task("demo"), "arml", network, None, {}))
        if not relocalize:  # as a histoserve before this one wrote it
            content = torch.load(path, weights_only=True)
            del content["classifier"]["config"]["relocalize"]
            torch.save(content, path)
        restored = load(path).cam_network
        assert restored is not None
        assert restored.config == network.config
        images = random_features(1, 3, 64, 64, dtype=torch.float32)
        with torch.no_grad():
            torch.testing.assert_close(restored(images), network(images))
