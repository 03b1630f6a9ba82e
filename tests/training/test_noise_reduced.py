"""The noise-reduced loss against a loop over eq. 4.10–4.11, and its way from CAMs through files into stage 2."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from serving.tasks import get_task
from training.cam_kinds import CamOptions
from training.classifier import Classifier, ClassifierConfig
from training.datasets.placement import IGNORE_LABEL
from training.errors import DataError, RecipeError
from training.noise_reduced import cam_confidence, gumbel_log_softmax, noise_reduced_loss
from training.patch_dataset import Augmentation, PatchDataset, PatchSample
from training.pseudomask import cam_maps, write_pseudo_masks
from training.schedule import Schedule
from training.segmenter import Segmenter, SegmenterConfig
from training.stage_two import StageTwo, StageTwoOptions
from training.tissue.patch import draw_patch

TASK = dataclasses.replace(get_task("demo"), tile_px=64)
DTYPES = (torch.float32, torch.float64)
LOSSES: tuple[Literal["cross_entropy", "noise_reduced"], ...] = ("cross_entropy", "noise_reduced")


def naive(logits: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor, temperature: float) -> float:
    total, pixels = 0.0, 0
    for b in range(len(logits)):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                if target[b, y, x] == IGNORE_LABEL:
                    continue
                pixels += 1
                scale = sum(math.exp(float(value) / temperature) for value in logits[b, :, y, x])
                for i in range(logits.shape[1]):
                    p, c = math.exp(float(logits[b, i, y, x]) / temperature) / scale, float(confidence[b, i, y, x])
                    total -= c * (math.log(p) if target[b, y, x] == i else math.log(1 - p))
    return total / max(1, pixels)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [2, 4])  # one class, and three, beside the background
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_equals_the_loop(dtype: torch.dtype, channels: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 3, 5, generator=generator, dtype=dtype)
    confidence = torch.rand(2, channels, 3, 5, generator=generator, dtype=dtype)
    target = torch.randint(0, channels, (2, 3, 5), generator=generator)
    target[0, 0] = IGNORE_LABEL
    loss = noise_reduced_loss(logits, target, confidence, temperature, noise=False)
    assert float(loss) == pytest.approx(naive(logits, target, confidence, temperature), rel=1e-5 if dtype == torch.float32 else 1e-12)


def test_gradient_is_that_of_the_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 2, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    confidence = torch.rand(1, 3, 2, 2, generator=generator, dtype=torch.float64)
    target = torch.tensor([[[0, 2], [1, IGNORE_LABEL]]])
    assert torch.autograd.gradcheck(lambda scores: noise_reduced_loss(scores, target, confidence, 0.7, noise=False), (logits,))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [17.0, 60.0, 200.0, 1e4])  # from 17 on, float32 rounds the softmax to 1
def test_a_network_that_is_sure_keeps_a_gradient(dtype: torch.dtype, gap: float) -> None:
    """Two channels: −log P₀ − log(1 − P₁) = 2·softplus(−gap) where it is right, 2·softplus(gap) where it is wrong."""
    logits = torch.tensor([gap, 0.0], dtype=dtype).view(1, 2, 1, 1).requires_grad_(True)
    ones = torch.ones(1, 2, 1, 1)
    right, wrong = (noise_reduced_loss(logits, torch.full((1, 1, 1), label), ones, 1.0, noise=False) for label in (0, 1))
    assert float(right.detach()) == pytest.approx(0, abs=1e-6)
    assert float(wrong.detach()) == pytest.approx(2 * gap)
    assert torch.autograd.grad(right, logits)[0].flatten().tolist() == pytest.approx([0, 0], abs=1e-6)
    assert torch.autograd.grad(wrong, logits)[0].flatten().tolist() == pytest.approx([2, -2])


@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_noise_leaves_loss_and_gradient_finite(dtype: torch.dtype, temperature: float) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 5, 96, 96) * 10).to(dtype).requires_grad_(True)
    target = torch.randint(0, 5, (2, 96, 96))
    loss = noise_reduced_loss(logits, target, torch.rand(2, 5, 96, 96), temperature, noise=True)
    torch.autograd.backward(loss)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss.detach())
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("label", "confidence"), [(0, 0.0), (1, 0.0), (IGNORE_LABEL, 1.0)])
def test_nothing_is_learned_from_no_confidence_or_from_padding(dtype: torch.dtype, label: int, confidence: float) -> None:
    logits = torch.randn(1, 3, 2, 2, dtype=dtype, requires_grad=True)
    target = torch.full((1, 2, 2), label)
    loss = noise_reduced_loss(logits, target, torch.full((1, 3, 2, 2), confidence), 1.0, noise=True)
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_confidence_is_the_share_of_the_cams() -> None:
    cam = torch.tensor([0.2, 0.6, 0.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 2)
    cam[..., 1] = 0
    assert cam_confidence(cam)[0, :, 0].tolist() == [[pytest.approx(0.25), 0], [pytest.approx(0.75), 0], [0, 0]]


def test_noise_is_drawn_in_training_only() -> None:
    logits, target, ones = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64), torch.ones(1, 3, 4, 4)
    torch.manual_seed(0)
    noisy = {float(noise_reduced_loss(logits, target, ones, 0.5, noise=True)) for _ in range(3)}
    quiet = {float(noise_reduced_loss(logits, target, ones, 0.5, noise=False)) for _ in range(3)}
    assert len(noisy) == 3
    assert len(quiet) == 1


def test_noise_is_gumbel_s() -> None:
    """The largest of logits with Gumbel noise falls on a channel as often as its softmax says (Jang et al. 2017, eq. 1)."""
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0])
    chosen = torch.bincount(gumbel_log_softmax(logits.view(1, 3, 1, 1).expand(1, 3, 200, 200), 0.5).argmax(dim=1).flatten(), minlength=3)
    torch.testing.assert_close(chosen / 200**2, logits.softmax(dim=0), atol=0.01, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_refuses_a_temperature_that_is_none(temperature: float) -> None:
    with pytest.raises(RecipeError, match=r"segment\.temperature: expected a number above 0"):
        StageTwoOptions("noise_reduced", temperature)


@pytest.fixture
def samples(tmp_path: Path) -> list[PatchSample]:
    listed = []
    for index in range(4):
        rgb, labels = draw_patch(index, 64)
        Image.fromarray(rgb).save(tmp_path / f"{index}.png")
        listed.append(PatchSample(tmp_path / f"{index}.png", tuple(int((labels == c).any()) for c in range(1, 5))))
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig("test_resnet", (2,), 4))
    return write_pseudo_masks(cam_maps(network, TASK, CamOptions()), listed, TASK, tmp_path / "pseudo_masks", {})


def test_confidence_reaches_stage_two_and_turns_with_the_patch(samples: list[PatchSample]) -> None:
    plain = PatchDataset(samples, TASK, None, 0)
    for index, sample in enumerate(samples):
        item = plain[index]
        assert item["confidence"].shape == (4, 64, 64)
        absent = [label for label, present in enumerate(sample.labels) if not present]
        assert float(item["confidence"][absent].abs().sum()) == 0  # gated by the image's label
    turned = PatchDataset(samples, TASK, Augmentation(color_jitter=0), 5)[1]
    candidates = [torch.rot90(plain[1]["confidence"], k, (1, 2)) for k in range(4)]
    candidates += [candidate.flip(2) for candidate in candidates]
    fits = [index for index, candidate in enumerate(candidates) if torch.equal(candidate, turned["confidence"])]
    targets = [torch.rot90(plain[1]["target"], k, (0, 1)) for k in range(4)]
    targets += [target.flip(1) for target in targets]
    assert any(torch.equal(targets[index], turned["target"]) for index in fits)


def test_stage_two_learns_with_it(samples: list[PatchSample]) -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig("test_resnet", (1, 2), 4, 8))
    module = StageTwo(network, TASK, Schedule(), StageTwoOptions("noise_reduced"), 10)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    dataset = PatchDataset(samples, TASK, None, 0)
    batch = torch.utils.data.default_collate([dataset[index] for index in range(4)])
    torch.autograd.backward(module.training_step(batch, 0))
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in network.parameters())


def test_stage_two_learns_nothing_from_padding_alone(samples: list[PatchSample]) -> None:
    network = Segmenter(SegmenterConfig("test_resnet", (1, 2), 4, 8))
    item = PatchDataset(samples, TASK, None, 0)[0]
    batch = torch.utils.data.default_collate([item | {"target": torch.full_like(item["target"], IGNORE_LABEL)}] * 2)
    for loss in LOSSES:
        module = StageTwo(network, TASK, Schedule(), StageTwoOptions(loss), 10)
        module.log = lambda *_, **__: None  # type: ignore[method-assign]
        assert float(module.training_step(batch, 0).detach()) == 0


@pytest.mark.parametrize("share_kept", [0.0, 0.1, 0.5, 0.95])
def test_a_cut_off_confidence_is_named(samples: list[PatchSample], share_kept: float) -> None:
    path = samples[0].confidence
    assert path is not None
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share_kept)])
    with pytest.raises(DataError, match=r"0\.npz: expected the confidence of a pseudo-mask"):
        PatchDataset(samples, TASK, None, 0)[0]


@pytest.mark.parametrize("shape", [(4, 7), (3, 4, 4), (4, 5, 5), (4, 0, 0)])
def test_a_confidence_of_another_shape_is_named(samples: list[PatchSample], shape: tuple[int, ...]) -> None:
    path = samples[0].confidence
    assert path is not None
    np.savez_compressed(path, confidence=np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=r"0\.npz: expected the confidence of 4 classes on a grid that divides 64 px, got"):
        PatchDataset(samples, TASK, None, 0)[0]


def test_patches_of_one_name_keep_masks_of_their_own(tmp_path: Path) -> None:
    listed = []
    for index, folder in enumerate(("case1", "case2", "case3")):
        (tmp_path / folder).mkdir()
        rgb, _ = draw_patch(index, 64)
        Image.fromarray(rgb).save(tmp_path / folder / "1.png")
        listed.append(PatchSample(tmp_path / folder / "1.png", tuple(int(index == label) for label in range(4))))
    torch.manual_seed(0)
    maps = cam_maps(Classifier(ClassifierConfig("test_resnet", (2,), 4)), TASK, CamOptions())
    written = write_pseudo_masks(maps, listed, TASK, tmp_path / "masks", {})
    assert [sample.target.name for sample in written if sample.target] == ["1.png", "1-2.png", "1-3.png"]
    for index, sample in enumerate(written):
        labels = PatchDataset([sample], TASK, None, 0)[0]["target"]
        assert set(labels.flatten().tolist()) <= {0, index + 1}


def test_a_damaged_confidence_is_named(samples: list[PatchSample]) -> None:
    assert samples[0].confidence is not None
    samples[0].confidence.write_bytes(b"noise")
    with pytest.raises(DataError, match=r"0\.npz: expected the confidence of a pseudo-mask"):
        PatchDataset(samples, TASK, None, 0)[0]
    assert np.array(Image.open(str(samples[0].target))).shape == (64, 64)
