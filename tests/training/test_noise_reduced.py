"""The noise-reduced loss against a loop over eq. 4.10–4.11, and its way from CAMs through files into stage 2."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from serving.tasks import get_task
from training.cam_kinds import CamOptions
from training.classifier import Classifier, ClassifierConfig
from training.datasets.placement import IGNORE_LABEL
from training.errors import DataError
from training.noise_reduced import cam_confidence, noise_reduced_loss
from training.patch_dataset import Augmentation, PatchDataset, PatchSample
from training.pseudomask import write_pseudo_masks
from training.schedule import Schedule
from training.segmenter import Segmenter, SegmenterConfig
from training.stage_two import StageTwo, StageTwoOptions
from training.tissue.patch import draw_patch

TASK = dataclasses.replace(get_task("demo"), tile_px=64)


def naive(logits: torch.Tensor, target: torch.Tensor, confidence: torch.Tensor) -> float:
    total, pixels = 0.0, 0
    for b in range(len(logits)):
        for y in range(logits.shape[2]):
            for x in range(logits.shape[3]):
                if target[b, y, x] == IGNORE_LABEL:
                    continue
                pixels += 1
                scale = sum(math.exp(float(value)) for value in logits[b, :, y, x])
                for i in range(logits.shape[1]):
                    p, c = math.exp(float(logits[b, i, y, x])) / scale, float(confidence[b, i, y, x])
                    total -= c * (math.log(p) if target[b, y, x] == i else math.log(1 - p))
    return total / max(1, pixels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_loop(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=dtype)
    confidence = torch.rand(2, 4, 3, 5, generator=generator, dtype=dtype)
    target = torch.randint(0, 4, (2, 3, 5), generator=generator)
    target[0, 0] = IGNORE_LABEL
    loss = noise_reduced_loss(logits, target, confidence, 1.0, noise=False)
    assert float(loss) == pytest.approx(naive(logits, target, confidence), rel=1e-5)


def test_degenerate_batches_are_finite() -> None:
    target = torch.zeros(1, 2, 2, dtype=torch.int64)
    sure = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2).clone().requires_grad_(True)
    wrong = noise_reduced_loss(sure, target + 1, torch.ones(1, 2, 2, 2), 1.0, noise=False)
    torch.autograd.backward(wrong)
    assert torch.isfinite(wrong.detach())
    assert sure.grad is not None
    assert float(noise_reduced_loss(sure.detach(), target, torch.zeros(1, 2, 2, 2), 1.0, noise=False)) == 0
    assert float(noise_reduced_loss(sure.detach(), target + IGNORE_LABEL, torch.ones(1, 2, 2, 2), 1.0, noise=False)) == 0


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


@pytest.fixture
def samples(tmp_path: Path) -> list[PatchSample]:
    listed = []
    for index in range(4):
        rgb, labels = draw_patch(index, 64)
        Image.fromarray(rgb).save(tmp_path / f"{index}.png")
        listed.append(PatchSample(tmp_path / f"{index}.png", tuple(int((labels == c).any()) for c in range(1, 5))))
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig("test_resnet", (2,), 4))
    return write_pseudo_masks(network, listed, TASK, tmp_path / "pseudo_masks", CamOptions())


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


def test_a_damaged_confidence_is_named(samples: list[PatchSample]) -> None:
    assert samples[0].confidence is not None
    samples[0].confidence.write_bytes(b"noise")
    with pytest.raises(DataError, match=r"0\.npz: expected the confidence of a pseudo-mask"):
        PatchDataset(samples, TASK, None, 0)[0]
    assert np.array(Image.open(str(samples[0].target))).shape == (64, 64)
