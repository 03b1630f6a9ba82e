"""PistoSeg's refinement: losses against loops over eq. 6–9, what gradients reach, what padding must not change, and a stage that trains."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from serving.tasks import get_task
from training.cam import normalize_cam
from training.classifier import Classifier, ClassifierConfig
from training.encoder import normalize
from training.errors import RecipeError
from training.fitting import Machine, fit, total_steps
from training.patch_dataset import Augmentation, PatchDataset, PatchSample
from training.refine_stage import RefineInputs, RefineStage, cam_of, probabilities_of, refined_maps
from training.refinement import (
    Refinement,
    RefinementConfig,
    RefinementNet,
    RefineOptions,
    classification_loss,
    consistency_loss,
    cross_loss,
    refinement_losses,
)
from training.schedule import Schedule

TASK = dataclasses.replace(get_task("wsss4luad"), tile_px=64)
CONFIG = RefinementConfig("test_resnet", num_classes=3, stages=(2, 3), reductions=(6, 8), cam_stage=4, image_px=64, key_channels=12)
DTYPES = (torch.float32, torch.float64)
SCHEDULE = Schedule(optimizer="adamw", learning_rate=1e-3, batch=2)


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(config: RefinementConfig = CONFIG) -> RefinementNet:
    torch.manual_seed(0)
    return RefinementNet(config)


def batch_of(images: int = 2, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (images, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "labels": torch.tensor([[1.0, 1, 0], [0, 0, 1], [1, 1, 1]])[:images],
        "valid": torch.ones(images, 64, 64, dtype=torch.bool),
        "background": torch.zeros(images, 64, 64, dtype=torch.bool),
    }


def stage(options: RefineOptions | None = None, net: RefinementNet | None = None) -> RefineStage:
    inputs = RefineInputs(
        lambda batch: drawn(len(batch["image"]), 3, 16, 16, seed=1), lambda batch: drawn(len(batch["image"]), 3, 2, 2, seed=2)
    )
    module = RefineStage(net or network(), inputs, TASK, SCHEDULE, options or RefineOptions(), total_steps=10)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]  # there is no trainer
    return module


# --- losses


def naive_distance(one: Tensor, other: Tensor, counted: Tensor) -> float:
    total, number = 0.0, 0
    for b in range(one.shape[0]):
        for c in range(one.shape[1]):
            for y in range(one.shape[2]):
                for x in range(one.shape[3]):
                    if counted[b, y, x]:
                        total += abs(float(one[b, c, y, x]) - float(other[b, c, y, x]))
                        number += 1
    return total / number if number else 0.0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kept", ["all", "some", "none"])
def test_consistency_and_cross_equal_the_loops(dtype: torch.dtype, images: int, kept: str) -> None:
    pseudo, cam, hat_pseudo, hat_cam = (drawn(images, 3, 2, 4, dtype=dtype, seed=seed) for seed in range(4))
    counted = drawn(images, 2, 4, seed=5) > {"all": -1, "some": 0.5, "none": 2}[kept]
    assert float(consistency_loss(hat_pseudo, hat_cam, counted)) == pytest.approx(naive_distance(hat_pseudo, hat_cam, counted), rel=1e-5)
    expected = naive_distance(pseudo, hat_cam, counted) + naive_distance(cam, hat_pseudo, counted)
    assert float(cross_loss(pseudo, cam, hat_pseudo, hat_cam, counted)) == pytest.approx(expected, rel=1e-5)


def test_a_loss_over_nothing_is_zero_with_a_gradient() -> None:
    hat = drawn(1, 3, 2, 2).requires_grad_(True)
    loss = consistency_loss(hat, drawn(1, 3, 2, 2, seed=1), torch.zeros(1, 2, 2, dtype=torch.bool))
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0
    assert hat.grad is not None
    assert (hat.grad == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("images", [1, 4])
def test_classification_equals_equation_6(dtype: torch.dtype, images: int) -> None:
    logits, labels = drawn(images, 3, dtype=dtype) * 6 - 3, (drawn(images, 3, seed=1) > 0.5).to(dtype)
    total = 0.0
    for b in range(images):
        for i in range(3):
            z, y = float(logits[b, i]), float(labels[b, i])
            total -= (y * math.log(1 / (1 + math.exp(-z))) + (1 - y) * math.log(math.exp(-z) / (1 + math.exp(-z)))) / 3
    assert float(classification_loss(logits, labels)) == pytest.approx(total / images, rel=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_terms_are_those_of_equation_9(dtype: torch.dtype) -> None:
    """From gated maps through A to the losses, by loops; absent classes are 0 in both maps and counted in the mean."""
    attention = drawn(2, 4, 4, dtype=dtype).softmax(dim=1)
    refined = Refinement(drawn(2, 3, 1, 1, dtype=dtype), drawn(2, 3, dtype=dtype), attention, torch.ones(2, 2, 2, dtype=torch.bool))
    refined.counted[1, 0, 1] = False
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=dtype)
    pseudo, cam = drawn(2, 3, 4, 4, dtype=dtype, seed=1), drawn(2, 3, 2, 2, dtype=dtype, seed=2)
    total = {"cons": 0.0, "cross": 0.0}
    for b in range(2):
        for c in range(3):
            m_p = [float(labels[b, c] * pseudo[b, c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean()) for y in (0, 1) for x in (0, 1)]
            m_c = [float(labels[b, c] * cam[b, c, y, x]) for y in (0, 1) for x in (0, 1)]
            for j in range(4):
                if not refined.counted[b, j // 2, j % 2]:
                    continue
                hat_p, hat_c = (sum(m[i] * float(attention[b, i, j]) for i in range(4)) for m in (m_p, m_c))
                total["cons"] += abs(hat_p - hat_c) / (7 * 3)
                total["cross"] += (abs(m_p[j] - hat_c) + abs(m_c[j] - hat_p)) / (7 * 3)
    losses = refinement_losses(refined, pseudo, cam, labels, RefineOptions())
    assert list(losses) == ["cls", "cons", "cross"]
    assert float(losses["cons"]) == pytest.approx(total["cons"], rel=1e-5)
    assert float(losses["cross"]) == pytest.approx(total["cross"], rel=1e-5)
    assert float(losses["cls"]) == pytest.approx(float(classification_loss(refined.logits, labels)))


def test_losses_are_switched_one_by_one() -> None:
    for options, terms in ((RefineOptions(cls=False), ["cons", "cross"]), (RefineOptions(cons=False, cross=False), ["cls"])):
        net = network().eval()
        batch = batch_of()
        refined = net(normalize(batch["image"], TASK.normalization.mean, TASK.normalization.std))
        losses = refinement_losses(refined, drawn(2, 3, 8, 8), drawn(2, 3, 2, 2), batch["labels"], options)
        assert list(losses) == terms
    with pytest.raises(RecipeError, match="at least one of the losses"):
        RefineOptions(cls=False, cons=False, cross=False)


# --- network


def test_the_pyramid_is_reduced_features_and_the_image() -> None:
    net = network().eval()
    images = drawn(2, 3, 64, 64)
    stages = net.encoder(images)
    pyramid = net.pyramid(images, stages[:2])
    assert pyramid.shape == (2, 6 + 8 + 3, 8, 8)
    first, second = (layer(feature).relu() for layer, feature in zip(net.reductions, stages, strict=False))
    torch.testing.assert_close(pyramid[:, :6], first)
    torch.testing.assert_close(pyramid[:, 6:14], nn.functional.interpolate(second, size=(8, 8), mode="bilinear"))
    torch.testing.assert_close(pyramid[:, 14:], images.view(2, 3, 8, 8, 8, 8).mean(dim=(3, 5)))
    refined = net(images)
    assert (refined.class_maps.shape, refined.logits.shape) == ((2, 3, 2, 2), (2, 3))
    assert (refined.attention.shape, refined.grid) == ((2, 64, 64), (8, 8))
    torch.testing.assert_close(refined.attention, net.projection(pyramid))


def test_class_maps_and_logits_are_a_classifier_s() -> None:
    net = network().eval()
    classifier = Classifier(ClassifierConfig("test_resnet", (4,), 3, 64)).eval()
    classifier.encoder.load_state_dict(net.encoder.state_dict())
    classifier.head.load_state_dict(net.head.state_dict())
    images = drawn(2, 3, 64, 64)
    class_maps, logits = classifier(images)
    refined = net(images)
    torch.testing.assert_close(refined.class_maps, class_maps)
    torch.testing.assert_close(refined.logits, logits)


@pytest.mark.parametrize(("stages", "cam_stage", "grid"), [((1, 2, 3), 4, 16), ((3,), 3, 4), ((2, 4), 3, 8), ((3, 4), 2, 4)])
def test_any_stage_may_give_the_cams_or_go_into_the_pyramid(stages: tuple[int, ...], cam_stage: int, grid: int) -> None:
    config = dataclasses.replace(CONFIG, stages=stages, reductions=tuple(range(4, 4 + len(stages))), cam_stage=cam_stage)
    refined = network(config).eval()(drawn(1, 3, 64, 64))
    assert refined.grid == (grid, grid)
    assert refined.class_maps.shape[2] == 64 // 2 ** (cam_stage + 1)


def test_the_published_size() -> None:
    """ResNet-38's 512 and 1024 channels to 64 and 128: with the image 195."""
    net = RefinementNet(RefinementConfig("test_resnet", 3, (2, 3), (64, 128), 4))
    assert net.projection.query.weight.shape == net.projection.key.weight.shape == (192, 195, 1, 1)


def test_grids_too_fine_for_attention_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"at most 56×56 cells, .* got 112 on a side with stages \(0, 3\) of 'test_resnet'"):
        RefinementNet(dataclasses.replace(CONFIG, stages=(0, 3), image_px=224))
    net = network(dataclasses.replace(CONFIG, stages=(1, 3))).eval()
    with pytest.raises(RecipeError, match="got 64 on a side"):
        net(torch.zeros(1, 3, 64, 256))
    for stages, reductions in (((3, 2), (4, 4)), ((2, 3), (4,)), ((), ())):
        with pytest.raises(RecipeError, match="ascending, different stages and a reduction for each"):
            dataclasses.replace(CONFIG, stages=stages, reductions=reductions)


# --- padding


def padded() -> tuple[Tensor, Tensor]:
    """Two images, the second of which is 40 × 48 px: of the 8 px cells of the pyramid, 5 × 6."""
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    valid[1, 40:] = False
    valid[1, :, 48:] = False
    return drawn(2, 3, 64, 64), valid


def test_padding_is_no_source_and_no_cell_of_the_means() -> None:
    images, valid = padded()
    refined = network().eval()(images, valid)
    inside = torch.zeros(8, 8, dtype=torch.bool)
    inside[:5, :6] = True
    assert refined.counted[0].all()
    torch.testing.assert_close(refined.counted[1], inside)
    pseudo, cam = drawn(2, 3, 64, 64, seed=1), drawn(2, 3, 8, 8, seed=2)
    labels = torch.ones(2, 3)
    before = refinement_losses(refined, pseudo, cam, labels, RefineOptions())
    pseudo[1, :, 40:], pseudo[1, :, :, 48:], cam[1, :, 5:], cam[1, :, :, 6:] = 0.9, 0.1, 0.7, 0.3
    after = refinement_losses(refined, pseudo, cam, labels, RefineOptions())
    assert before == after
    pseudo[1, :, 20, 20] += 0.5
    changed = refinement_losses(refined, pseudo, cam, labels, RefineOptions())
    assert changed["cons"] != before["cons"]
    assert changed["cross"] != before["cross"]


def test_padding_is_left_out_of_the_logits() -> None:
    """Cells of 32 px: 40 × 48 px of image fill 1, ½ (right), ¼ (below) and ⅛ of them."""
    images, valid = padded()
    net = network().eval()
    refined: Refinement = net(images, valid)
    bias = net.head.bias
    assert bias is not None
    for b, weights in enumerate([[1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.25, 0.125]]):
        for c in range(3):
            cells = refined.class_maps[b, c].flatten().tolist()
            mean = sum(w * cell for w, cell in zip(weights, cells, strict=True)) / sum(weights)
            assert float(refined.logits[b, c].detach()) == pytest.approx(mean + float(bias[c].detach()), rel=1e-4, abs=1e-5)
    nothing = torch.zeros(1, 64, 64, dtype=torch.bool)
    assert net(images[:1], nothing).logits.isfinite().all()


# --- stage


@pytest.mark.parametrize(
    ("options", "reached", "untouched"),
    [
        (RefineOptions(), ("encoder", "reductions", "projection", "head"), ()),
        (RefineOptions(cls=False), ("encoder", "reductions", "projection"), ("head",)),
        (RefineOptions(cls=False, cross=False), ("encoder", "reductions", "projection"), ("head",)),
        (RefineOptions(cons=False, cross=False), ("encoder", "head"), ("reductions", "projection")),
    ],
)
def test_gradient_reaches_what_the_losses_train(options: RefineOptions, reached: tuple[str, ...], untouched: tuple[str, ...]) -> None:
    module = stage(options)
    for layer in module.network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)  # timm starts residual branches at 0, which lets no gradient into them
    module.training_step(batch_of(), 0).backward()  # type: ignore[no-untyped-call]
    deepest = "encoder.body.layer4."  # read by the head alone
    for name, parameter in module.network.named_parameters():
        part = "head" if name.startswith(deepest) else name.split(".")[0]
        if part in untouched:
            assert parameter.grad is None, name
        else:
            assert part in reached, name
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


def test_the_loss_is_the_sum_of_its_terms() -> None:
    logged: dict[str, float] = {}
    module = stage()
    module.log = lambda name, value, **options: logged.update({name: float(value)})  # type: ignore[method-assign]
    loss = float(module.training_step(batch_of(), 0).detach())
    assert list(logged) == ["cls", "cons", "cross"]
    assert loss == pytest.approx(sum(logged.values()))


def trained(steps: int) -> tuple[RefineStage, list[float]]:
    torch.manual_seed(0)
    module = stage()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = module.training_step(batch_of(), 0)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return module, losses


def test_training_is_the_same_under_the_same_seed_and_lowers_the_loss() -> None:
    (first, losses), (second, again) = trained(8), trained(8)
    assert losses == again
    for one, other in zip(first.network.parameters(), second.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert losses[-1] < 0.8 * losses[0]


class Pixels(nn.Module):
    """A segmenter: a 1×1 convolution on cells of 4 px."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.body(images)
        return logits


def frozen() -> tuple[Classifier, Pixels, RefineInputs]:
    torch.manual_seed(1)
    classifier, segmenter = Classifier(ClassifierConfig("test_resnet", (4,), 3, 64)), Pixels(3)
    return classifier, segmenter, RefineInputs(probabilities_of(segmenter, TASK, "sigmoid"), cam_of(classifier, TASK, "cam"))


@pytest.mark.parametrize("kind", ["cam", "grad_cam", "grad_cam_pp"])
def test_the_networks_that_give_the_maps_stay_as_they_are(kind: Literal["cam", "grad_cam", "grad_cam_pp"]) -> None:
    classifier, segmenter, inputs = frozen()
    inputs = dataclasses.replace(inputs, cam=cam_of(classifier, TASK, kind))
    before = copy.deepcopy([classifier.state_dict(), segmenter.state_dict()])
    module = RefineStage(network(), inputs, TASK, SCHEDULE, RefineOptions(), total_steps=10)
    module.log = lambda *arguments, **options: None  # type: ignore[method-assign]
    module.train()
    module.training_step(batch_of(), 0).backward()  # type: ignore[no-untyped-call]
    for frozen_network, state in zip((classifier, segmenter), before, strict=True):
        assert all(parameter.grad is None for parameter in frozen_network.parameters())
        for key, value in frozen_network.state_dict().items():  # running statistics among them
            torch.testing.assert_close(value, state[key], rtol=0, atol=0)
    assert {key.split(".")[0] for key in module.state_dict()} == {"network"}  # nor are they saved with it


def test_maps_of_the_networks() -> None:
    classifier, segmenter, inputs = frozen()
    batch = batch_of()
    images = normalize(batch["image"], TASK.normalization.mean, TASK.normalization.std)
    torch.testing.assert_close(inputs.cam(batch), normalize_cam(classifier.eval()(images)[0]))
    torch.testing.assert_close(inputs.pseudo(batch), segmenter.eval()(images).sigmoid())
    softmax = probabilities_of(segmenter, TASK, "softmax")(batch)
    torch.testing.assert_close(softmax, segmenter(images).softmax(dim=1))
    with pytest.raises(RecipeError, match=r"logits of the 3 classes of task 'wsss4luad', got 4 channels"):
        probabilities_of(Pixels(4), TASK, "sigmoid")(batch)


@pytest.mark.parametrize("output", ["net_cam", "cam", "pseudo"])
def test_refined_maps_are_the_output_asked_for(output: Literal["pseudo", "cam", "net_cam"]) -> None:
    _, _, inputs = frozen()
    net, batch = network().eval(), batch_of()
    maps = refined_maps(net, batch, inputs, TASK, RefineOptions(output=output))
    refined = net(normalize(batch["image"], TASK.normalization.mean, TASK.normalization.std))
    source = {"net_cam": normalize_cam(refined.class_maps), "cam": inputs.cam(batch), "pseudo": inputs.pseudo(batch)}[output]
    torch.testing.assert_close(maps, refined.project(source * batch["labels"][:, :, None, None]))
    assert maps.shape == (2, 3, 8, 8)
    assert not maps.requires_grad
    assert (maps[batch["labels"] == 0] == 0).all()
    assert maps.min() >= 0
    assert maps.max() <= 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lightning_trains_it_on_patches(tmp_path: Path, precision: Literal["32-true", "bf16-mixed"]) -> None:
    """The images are of 48 × 40 px, so that padding is among what is trained on."""
    random = np.random.default_rng(0)
    samples = []
    for index, labels in enumerate([(1, 0, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1)]):
        Image.fromarray(random.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
        samples.append(PatchSample(tmp_path / f"{index}.png", labels))
    _, _, inputs = frozen()
    schedule = dataclasses.replace(SCHEDULE, epochs=1)
    module = RefineStage(network(), inputs, TASK, schedule, RefineOptions(), total_steps(4, schedule, "refine"))
    before = copy.deepcopy(module.network.state_dict())
    fit(module, PatchDataset(samples, TASK, Augmentation(), seed=0), schedule, tmp_path / "refine", Machine(precision=precision))
    curves = (tmp_path / "refine" / "metrics.csv").read_text().splitlines()
    assert {"cls", "cons", "cross"} <= set(curves[0].split(","))
    after = module.network.state_dict()
    assert not torch.equal(after["projection.query.weight"], before["projection.query.weight"])
    assert all(value.isfinite().all() for value in after.values())
