"""The views of appendix A.3: its ranges, what each view leaves alone, and that a seed gives the same view."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.augment_views import PHOTOMETRIC, SPATIAL, photometric_view, spatial_view

View = Callable[[Tensor, torch.Generator], Tensor]
COLOR = torch.tensor([200, 60, 120], dtype=torch.uint8).view(3, 1, 1)


def blocks(count: int) -> Tensor:
    """A square of one color on black."""
    images = torch.zeros(count, 3, 64, 64, dtype=torch.uint8)
    images[:, :, 16:48, 16:48] = COLOR
    return images


def noise(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_photometric_ranges_are_the_appendix_s() -> None:
    sharpness, contrast, equalize, blur, jitter = PHOTOMETRIC.transforms
    assert (sharpness.sharpness_factor, sharpness.p, contrast.p, equalize.p) == (2, 0.5, 0.5, 0.5)
    assert (list(blur.kernel_size), list(blur.sigma)) == ([3, 3], [0.1, 2.0])
    assert (list(jitter.brightness), list(jitter.contrast), list(jitter.saturation)) == ([0.8, 1.2], [0.8, 1.2], [0.8, 1.2])
    assert list(jitter.hue) == [-0.1, 0.1]


def test_the_spatial_ranges_are_the_appendix_s() -> None:
    horizontal, vertical, rotation = SPATIAL.transforms
    assert (horizontal.p, vertical.p, list(rotation.degrees)) == (0.5, 0.5, [-90, 90])


@pytest.mark.parametrize("view", [photometric_view, spatial_view])
def test_a_seed_gives_the_same_view_and_each_image_its_own_draw(view: View) -> None:
    images = noise(1).repeat(6, 1, 1, 1)
    first = view(images, seeded(0))
    assert first.dtype == torch.uint8
    assert first.shape == images.shape
    assert torch.equal(first, view(images, seeded(0)))
    assert not torch.equal(first, view(images, seeded(1)))
    assert len({image.numpy().tobytes() for image in first}) > 1


@pytest.mark.parametrize("view", [photometric_view, spatial_view])
def test_the_global_generator_and_the_images_are_left_as_they_were(view: View) -> None:
    images, state = noise(2), torch.get_rng_state()
    view(images, seeded(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(images, noise(2))


@pytest.mark.parametrize("seed", range(4))
def test_photometric_views_leave_things_where_they_are(seed: int) -> None:
    photometric = photometric_view(blocks(4), seeded(seed)).float().mean(1)
    inside, outside = photometric[:, 20:44, 20:44], photometric[:, :12]
    assert (inside.flatten(1).min(1).values > outside.flatten(1).max(1).values).all()


@pytest.mark.parametrize("seed", range(4))
def test_spatial_views_move_and_do_not_recolor(seed: int) -> None:
    images = blocks(4)
    spatial = spatial_view(images, seeded(seed))
    assert not torch.equal(spatial, images)
    assert (spatial[:, :, 30:34, 30:34] == COLOR).all()


def test_turned_corners_are_white() -> None:
    corners = torch.stack([spatial_view(blocks(8), seeded(seed))[:, :, 0, 0] for seed in range(4)])
    assert (corners == 255).any()
    assert ((corners == 255) | (corners == 0)).all()
