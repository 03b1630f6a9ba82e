"""The options that the thesis names around PSCL: weights by confidence, kinds of background, gates, and when the term begins."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss

from serving.tasks import get_task
from training.classifier import Classifier, ClassifierConfig
from training.datasets.placement import IGNORE_LABEL
from training.encoder import normalize
from training.schedule import Schedule
from training.segmenter import Segmenter, SegmenterConfig
from training.stage_one import PsclOptions, StageOne
from training.stage_two import StageTwo, StageTwoOptions
from training.supcon import PsclLoss, weighted_supcon

TASK = dataclasses.replace(get_task("demo"), tile_px=64)


def naive(vectors: torch.Tensor, classes: list[int], weights: list[float], temperature: float) -> float:
    """Eq. 4.8, vector by vector, averaged over the non-zero terms; nothing to set a single class apart from."""
    if len(set(classes)) == 1:
        return 0.0
    normal = [vector / vector.norm() for vector in vectors]
    total = mass = 0.0
    for i in range(len(normal)):
        positives = [p for p in range(len(normal)) if p != i and classes[p] == classes[i]]
        if not positives:
            continue
        scale = sum(np.exp(float(normal[i] @ normal[a]) / temperature) for a in range(len(normal)) if a != i)
        term = -sum(np.log(np.exp(float(normal[i] @ normal[p]) / temperature) / scale) for p in positives) / len(positives)
        if term > 0:
            total += weights[i] * term
            mass += weights[i]
    return total / mass if mass else 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [[0, 0, 1, 1, 2], [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]])
def test_weighted_supcon_equals_the_loop(dtype: torch.dtype, classes: list[int]) -> None:
    vectors = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)
    weights = [0.9, 0.3, 0.0, 0.7, 1.0]
    loss = weighted_supcon(vectors, torch.tensor(classes), torch.tensor(weights, dtype=dtype), 0.2)
    assert float(loss) == pytest.approx(naive(vectors, classes, weights, 0.2), rel=1e-4, abs=1e-6)


def test_with_equal_weights_it_is_the_library_s() -> None:
    vectors = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    classes = torch.arange(12) % 3
    library = SupConLoss(temperature=0.1)(vectors, classes)
    torch.testing.assert_close(weighted_supcon(vectors, classes, torch.full((12,), 0.4), 0.1), library)


def test_no_weight_at_all_is_zero_with_a_gradient() -> None:
    features = torch.randn(1, 4, 3, 3, requires_grad=True)
    loss = PsclLoss()(features, torch.zeros(1, 3, 3, dtype=torch.int64), torch.zeros(1, 3, 3))
    torch.autograd.backward(loss)
    assert float(loss.detach()) == 0
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()


def stage(**options: object) -> StageOne:
    torch.manual_seed(0)
    network = Classifier(ClassifierConfig("test_resnet", (2,), 4)).eval()
    return StageOne(network, TASK, Schedule(), PsclOptions(**options), 10, 0)  # type: ignore[arg-type]


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    background = torch.zeros(2, 64, 64, dtype=torch.bool)
    background[0, :, :32] = True
    return {
        "image": torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "background": background,
        "labels": torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]]),
        "valid": torch.ones(2, 64, 64, dtype=torch.bool),
    }


def pseudo(module: StageOne, class_maps: torch.Tensor, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return module._pseudo_labels(class_maps, logits, batch())


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    """Class 3 answers everywhere, class 0 on the right, weakly in the middle; only the first image matters."""
    class_maps = torch.zeros(2, 4, 2, 4)
    class_maps[:, 3] = 1.0
    class_maps[0, 0] = torch.tensor([0.0, 0.05, 0.5, 1.0])
    return class_maps, torch.tensor([[2.0, -1, -1, -1], [-1.0, 2, -1, -1]])


def test_gates_decide_whose_maps_count() -> None:
    by_labels, _ = pseudo(stage(background="none"), *maps())
    assert by_labels[0, 0].tolist() == [-1, -1, 0, 0]
    by_scores, _ = pseudo(stage(background="none", gate="scores"), *maps())
    assert by_scores[0, 0].tolist() == [-1, -1, 0, 0]
    ungated, confidence = pseudo(stage(background="none", gate="none"), *maps())
    assert ungated[0, 0].tolist() == [3, 3, 3, 0]
    assert confidence[0, 0].tolist() == [1, 1, 1, 1]


def test_kinds_of_background() -> None:
    color, confidence = pseudo(stage(), *maps())
    assert color[0, 0].tolist() == [4, 4, 0, 0]
    assert confidence[0, 0].tolist() == [1, 1, 0.5, 1]
    activation, _ = pseudo(stage(background="activation"), *maps())
    assert activation[0, 0].tolist() == [4, 4, 0, 0]
    assert pseudo(stage(background="activation", activation_below=0.01), *maps())[0][0, 0].tolist() == [4, -1, 0, 0]


def test_the_term_begins_when_it_is_told_and_may_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def losses(epoch: int, **options: object) -> set[str]:
        module = stage(**options)
        logged: dict[str, torch.Tensor] = {}
        monkeypatch.setattr(StageOne, "current_epoch", epoch, raising=False)
        monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
        loss = module.training_step(batch(), 0)
        expected = (0 if options.get("alone") and "pscl" in logged else logged["mlsm"]) + 0.1 * logged.get("pscl", torch.tensor(0.0))
        torch.testing.assert_close(loss.detach(), expected)
        return set(logged)

    assert losses(4, start_epoch=5) == {"mlsm"}
    assert losses(5, start_epoch=5) == {"mlsm", "pscl"}
    assert losses(5, start_epoch=5, alone=True) == {"mlsm", "pscl"}
    assert losses(0, weigh_by_confidence=True) == {"mlsm", "pscl"}


def test_padding_counts_in_neither_stage() -> None:
    padded = batch()
    padded["valid"][:, :, 32:] = False
    labels, _ = stage(background="none", gate="none")._pseudo_labels(*maps(), padded)
    assert labels[0, 0].tolist() == [3, 3, -1, -1]
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig("test_resnet", (1, 2), 4, 8)).eval()
    module = StageTwo(network, TASK, Schedule(), StageTwoOptions(), 10)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    padded["target"] = torch.ones(2, 64, 64, dtype=torch.int64)
    padded["target"][:, :, 32:] = IGNORE_LABEL
    loss = module.training_step(padded, 0)
    with torch.no_grad():
        logits = network(normalize(padded["image"], TASK.normalization.mean, TASK.normalization.std))
        full = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")
        expected = torch.nn.functional.cross_entropy(full[:, :, :, :32], padded["target"][:, :, :32])
    torch.testing.assert_close(loss.detach(), expected)
    padded["target"][:] = IGNORE_LABEL
    assert float(module.training_step(padded, 0).detach()) == 0
