"""The CAM kinds against loops over their equations, and what must hold between them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.cam_kinds import CamKind, CamOptions, averaged_class_maps, class_maps
from training.classifier import Classifier, ClassifierConfig


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def network(request: pytest.FixtureRequest) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig("test_resnet", (1, 2), 3)).eval().to(request.param)


class Nonlinear(Classifier):
    """A head whose gradient differs from place to place, so that the kinds differ from each other."""

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        maps, _ = super().classify(features)
        return maps, (maps * maps.sigmoid()).mean(dim=(2, 3))


@pytest.fixture
def nonlinear() -> Classifier:
    torch.manual_seed(1)
    return Nonlinear(ClassifierConfig("test_resnet", (2,), 3)).eval().double()


def images(network: nn.Module, count: int = 2) -> Tensor:
    dtype = next(network.parameters()).dtype
    return torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def naive(network: Classifier, batch: Tensor, kind: str) -> Tensor:
    """Feature by feature, image by image."""
    with torch.no_grad():
        features = network.features(batch)
    maps = []
    for image in range(len(batch)):
        own = features[image : image + 1].clone().requires_grad_(True)
        _, logits = network.classify(own)
        rows = []
        for index in range(logits.shape[1]):
            (gradient,) = torch.autograd.grad(logits[0, index], own, retain_graph=True)
            f, g = own[0].detach(), gradient[0]
            total = torch.zeros_like(f[0])
            for channel in range(len(f)):
                if kind == "hires_cam":
                    total += g[channel] * f[channel]
                elif kind == "grad_cam":
                    total += g[channel].mean() * f[channel]
                else:
                    total += plus_plus_weight(f[channel], g[channel]) * f[channel]
            rows.append(total)
        maps.append(torch.stack(rows))
    return torch.stack(maps)


def plus_plus_weight(f: Tensor, g: Tensor) -> float:
    """Grad-CAM++ eq. 19 and 5, cell by cell: the sum in α's denominator runs over the features of all cells, with the gradient of this one."""
    weight = 0.0
    for here in g.flatten().tolist():
        denominator = 2 * here**2 + sum(there * here**3 for there in f.flatten().tolist())
        if denominator != 0:
            weight += here**2 / denominator * max(here, 0.0)
    return weight


@pytest.mark.parametrize("kind", ["grad_cam", "grad_cam_pp", "hires_cam"])
def test_equals_the_loop(nonlinear: Classifier, kind: CamKind) -> None:
    batch = images(nonlinear)
    torch.testing.assert_close(class_maps(nonlinear, batch, kind)[0], naive(nonlinear, batch, kind))


def test_with_average_pooling_and_a_linear_head_gradients_say_what_the_weights_say(network: Classifier) -> None:
    batch = images(network)
    maps, logits = class_maps(network, batch, "cam")
    cells = maps.shape[2] * maps.shape[3]
    kinds: tuple[CamKind, ...] = ("grad_cam", "hires_cam")
    for kind in kinds:
        by_gradient, same_logits = class_maps(network, batch, kind)
        torch.testing.assert_close(by_gradient * cells, maps, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(same_logits, logits)
    assert not maps.requires_grad


def test_no_gradient_means_no_map(nonlinear: Classifier) -> None:
    with torch.no_grad():
        nonlinear.head.weight.zero_()
    kinds: tuple[CamKind, ...] = ("grad_cam", "grad_cam_pp", "hires_cam")
    for kind in kinds:
        assert (class_maps(nonlinear, images(nonlinear), kind)[0] == 0).all()


def test_flips_make_the_map_follow_the_image(network: Classifier) -> None:
    batch, options = images(network), CamOptions(flips=True)
    upright, logits = averaged_class_maps(network, batch, options)
    for axes in ((3,), (2,), (2, 3)):
        mirrored, same_logits = averaged_class_maps(network, batch.flip(axes), options)
        torch.testing.assert_close(mirrored.flip(axes), upright, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(same_logits, logits, rtol=1e-3, atol=1e-5)


def test_scales_are_averaged_on_the_grid_of_the_first(network: Classifier) -> None:
    batch = images(network)
    options = CamOptions(flips=False, scales=(1.0, 1.5))
    maps, logits = averaged_class_maps(network, batch, options)
    large = nn.functional.interpolate(batch, scale_factor=1.5, mode="bilinear", align_corners=False)
    first, second = class_maps(network, batch, "cam"), class_maps(network, large, "cam")
    assert second[0].shape[2:] != first[0].shape[2:]
    aligned = nn.functional.interpolate(second[0], size=first[0].shape[2:], mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps, (first[0] + aligned) / 2)
    torch.testing.assert_close(logits, (first[1] + second[1]) / 2)


@pytest.mark.parametrize("kind", ["cam", "grad_cam", "hires_cam"])
def test_callers_need_no_graph_of_their_own(network: Classifier, kind: CamKind) -> None:
    batch = images(network)
    with torch.no_grad():
        silent = class_maps(network, batch, kind)[0]
    torch.testing.assert_close(silent, class_maps(network, batch, kind)[0])
    assert not silent.requires_grad
