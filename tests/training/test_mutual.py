"""ARML's mutual learning: eq. 9 put together, three networks that stay apart, and a few steps on generated tissue."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from serving.tasks import get_task
from training.channel_targets import channel_targets
from training.datasets.placement import IGNORE_LABEL
from training.encoder import normalize
from training.errors import DataError, RecipeError
from training.fitting import Machine, fit
from training.mutual import MutualLearning, MutualOptions
from training.mutual_losses import draw_samples, point_loss, structure_loss, take_samples, voting_weights, weighted_voting_loss
from training.patch_dataset import PatchDataset, PatchSample
from training.schedule import Schedule
from training.tissue.patch import draw_patch

TASK = dataclasses.replace(get_task("demo"), tile_px=64)
SCHEDULE = Schedule("adamw", 0.03, batch=4, power=0, epochs=16)
CLASSES = 4


class Tiny(nn.Module):
    """Logits (B, K, H / 4, W / 4), K = C or C + 1."""

    def __init__(self, seed: int, has_background: bool = False, dropout: float = 0.0, width: int = 8) -> None:
        super().__init__()
        self.has_background = has_background
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Conv2d(3, width, 7, 4, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(dropout))
            self.head = nn.Conv2d(width, CLASSES + has_background, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def three(has_background: bool = False) -> list[Tiny]:
    return [Tiny(seed, has_background) for seed in range(3)]


def learning(options: MutualOptions | None = None, networks: Sequence[nn.Module] | None = None, seed: int = 0) -> MutualLearning:
    return MutualLearning(networks or three(), TASK, SCHEDULE, options or MutualOptions(samples=12), total_steps=10, seed=seed)


def random_batch(levels: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    target = torch.randint(0, CLASSES + 1, (2, 16, 24), generator=generator)
    target[0, :4] = IGNORE_LABEL
    batch = {"image": torch.randint(0, 256, (2, 3, 16, 24), generator=generator, dtype=torch.uint8), "target": target}
    if levels:
        batch["more_targets"] = torch.randint(0, CLASSES + 1, (2, levels, 16, 24), generator=generator)
    return batch


def full_logits(networks: Sequence[nn.Module], batch: dict[str, Tensor]) -> list[Tensor]:
    images = normalize(batch["image"], TASK.normalization.mean, TASK.normalization.std)
    return [functional.interpolate(network(images), size=(16, 24), mode="bilinear", align_corners=False) for network in networks]


@pytest.mark.parametrize("has_background", [False, True])
@pytest.mark.parametrize("relation", ["structure", "point", "none"])
def test_each_network_s_losses_are_those_of_eq_9_with_the_others_as_peers(has_background: bool, relation: Any) -> None:
    options = MutualOptions(samples=12, relation=relation, omega=3.0, alpha=2.0, beta=5.0, huber_delta=0.3)
    networks, batch = three(has_background), random_batch()
    votes, relations = learning(options, networks, seed=4).losses(batch)
    maps = full_logits(networks, batch)
    target = channel_targets(batch["target"], has_background)
    positions = draw_samples(target != IGNORE_LABEL, 12, torch.Generator().manual_seed(4))
    vectors = [take_samples(logits, positions) for logits in maps]
    for index, (first, second) in enumerate([(1, 2), (0, 2), (0, 1)]):
        weights = voting_weights(maps[first], maps[second], 3.0)
        torch.testing.assert_close(votes[index], weighted_voting_loss(maps[index], target, weights, IGNORE_LABEL))
        peers = vectors[first], vectors[second]
        expected = {
            "structure": structure_loss(vectors[index], *peers, 2.0, 5.0, 0.3),
            "point": point_loss(vectors[index], *peers),
            "none": torch.zeros(()),
        }
        torch.testing.assert_close(relations[index], expected[relation])


def test_terms_can_be_switched_off() -> None:
    batch = random_batch()

    def losses(**changed: Any) -> tuple[Tensor, Tensor]:
        votes, relations = learning(dataclasses.replace(MutualOptions(samples=12), **changed)).losses(batch)
        return votes.detach(), relations.detach()

    plain = [
        functional.cross_entropy(logits, channel_targets(batch["target"], False), ignore_index=IGNORE_LABEL)
        for logits in full_logits(three(), batch)
    ]
    torch.testing.assert_close(losses(voting=False)[0], torch.stack(plain).detach())
    torch.testing.assert_close(losses(distance=False)[1] + losses(angle=False)[1], losses()[1])
    assert (losses(omega=math.inf)[0] < losses(voting=False)[0]).all()


def step(batch: dict[str, Tensor], options: MutualOptions, networks: Sequence[nn.Module] | None = None) -> tuple[MutualLearning, Tensor]:
    """Backward of what Lightning would minimize, without its loop."""
    module = learning(options, networks)
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # logging alone needs a trainer
    loss = module.training_step(batch, 0)
    torch.autograd.backward(loss)
    return module, loss.detach()


def test_one_optimizer_steps_as_three_with_a_loss_each_would() -> None:
    batch, options = random_batch(), MutualOptions(samples=12)
    together, _ = step(batch, options)
    for index, network in enumerate(together.networks):
        alone = learning(options)  # draws the same pixels
        votes, relations = alone.losses(batch)
        torch.autograd.backward(0.8 * votes[index] + 0.2 * relations[index])
        for (name, joint), own in zip(network.named_parameters(), alone.networks[index].parameters(), strict=True):
            torch.testing.assert_close(joint.grad, own.grad, msg=name)
        others = [parameter.grad for other in range(3) if other != index for parameter in alone.networks[other].parameters()]
        assert all(gradient is None or gradient.abs().sum() == 0 for gradient in others)


@pytest.mark.parametrize("relation", ["structure", "point", "none"])
def test_gradient_reaches_every_parameter_of_the_three_networks(relation: Any) -> None:
    module, _ = step(random_batch(), MutualOptions(samples=12, relation=relation))
    # Batch normalization follows: this bias moves nothing.
    parameters = [(name, value) for name, value in module.named_parameters() if not name.endswith("body.0.bias")]
    assert len(parameters) == 3 * 5
    assert [name for name, value in parameters if value.grad is None or value.grad.abs().max() < 1e-7] == []


def test_without_a_relation_the_voting_loss_is_all() -> None:
    _, loss = step(random_batch(), MutualOptions(relation="none"))
    votes, _ = learning().losses(random_batch())
    torch.testing.assert_close(loss, votes.detach().sum())


@pytest.mark.parametrize("ignored", [0, IGNORE_LABEL])  # background, for networks without a channel for it
def test_a_batch_that_teaches_nothing_gives_zero(ignored: int) -> None:
    batch = random_batch() | {"target": torch.full((2, 16, 24), ignored)}
    module, loss = step(batch, MutualOptions(samples=12))
    assert loss == 0
    assert all(value.grad is not None and value.grad.abs().sum() == 0 for value in module.parameters())


def test_several_pseudo_masks_are_weighed() -> None:
    batch = random_batch(levels=2)
    options = MutualOptions(samples=12, level_weights=(0.5, 0.3, 0.2))

    def votes(target: Tensor) -> Tensor:
        return learning(options).losses({"image": batch["image"], "target": target})[0].detach()

    levels = [batch["target"], *batch["more_targets"].unbind(dim=1)]
    expected = sum((weight * votes(target) for weight, target in zip((0.5, 0.3, 0.2), levels, strict=True)), torch.zeros(3))
    torch.testing.assert_close(learning(options).losses(batch)[0].detach(), expected)
    with pytest.raises(DataError, match=r"expected 3 pseudo-masks, as mutual\.level_weights has, got 2"):
        learning(options).losses(random_batch(levels=1))


def test_one_network_passes_three_times_and_the_first_learns() -> None:
    options = MutualOptions(samples=12, one_network=True)
    network = Tiny(0, dropout=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module, loss = step(random_batch(), options, [network])
        torch.manual_seed(3)
        twin = Tiny(0, dropout=0.5)
        a, b, c = full_logits([twin] * 3, random_batch())
    target = channel_targets(random_batch()["target"], False)
    positions = draw_samples(target != IGNORE_LABEL, 12, torch.Generator().manual_seed(0))
    voting = weighted_voting_loss(a, target, voting_weights(b, c, 2.0), IGNORE_LABEL)
    relation = structure_loss(take_samples(a, positions), take_samples(b, positions), take_samples(c, positions))
    expected = 0.8 * voting + 0.2 * relation
    torch.testing.assert_close(loss, expected.detach())
    torch.autograd.backward(expected)
    for joint, own in zip(module.networks[0].parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(joint.grad, own.grad)
    assert relation > 0


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other take longer than tensors this small."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


@pytest.fixture(scope="module")
def tissue(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    folder = tmp_path_factory.mktemp("tissue")
    samples = []
    for seed in range(12):
        rgb, labels = draw_patch(seed, TASK.tile_px)
        Image.fromarray(rgb).save(folder / f"{seed}.png")
        Image.fromarray(labels).save(folder / f"{seed}_target.png")
        present = tuple(int((labels == label).any()) for label in range(1, CLASSES + 1))
        samples.append(PatchSample(folder / f"{seed}.png", present, folder / f"{seed}_target.png"))
    return PatchDataset(samples, TASK, None, seed=0)


def trained(tissue: PatchDataset, folder: Path, options: MutualOptions, networks: Sequence[nn.Module]) -> MutualLearning:
    module = MutualLearning(networks, TASK, SCHEDULE, options, total_steps=24, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(6)  # the order of the patches
        fit(module, tissue, SCHEDULE, folder, Machine(log="csv"))
    return module


def curve(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row[name]) for row in rows if row[name]]


def error(network: nn.Module, tissue: PatchDataset) -> float:
    """Cross-entropy on the batch of all patches: the voting loss rises with the peers' agreement, and does not say what was learned."""
    batch = {name: torch.stack([tissue[index][name] for index in range(len(tissue))]) for name in ("image", "target")}
    target = channel_targets(batch["target"], has_background=False)
    with torch.no_grad():
        logits = network.train()(normalize(batch["image"], TASK.normalization.mean, TASK.normalization.std))
    full = functional.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)
    return functional.cross_entropy(full, target, ignore_index=IGNORE_LABEL).item()


def test_three_networks_learn_and_stay_different(tissue: PatchDataset, tmp_path: Path) -> None:
    options = MutualOptions(samples=24)
    module = trained(tissue, tmp_path / "first", options, three())
    again = trained(tissue, tmp_path / "again", options, three())
    torch.testing.assert_close(again.state_dict(), module.state_dict(), rtol=0, atol=0)
    structure = curve(tmp_path / "first", "structure")
    assert len(structure) >= 16
    assert sum(structure[-3:]) < 0.3 * sum(structure[:3])
    for before, after in zip(three(), module.networks, strict=True):
        assert error(after, tissue) < error(before, tissue) - 0.05
    weights = [nn.utils.parameters_to_vector(network.parameters()) for network in module.networks]
    assert min((weights[i] - weights[j]).norm().item() for i, j in ((0, 1), (0, 2), (1, 2))) > 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"omega": 0.5}, r"mutual\.omega: expected at least 1, got 0\.5"),
        ({"omega": math.nan}, r"mutual\.omega"),
        ({"weight": 1.5}, r"mutual\.weight: expected a number within 0…1, got 1\.5"),
        ({"alpha": 0.0}, r"mutual\.alpha: .*distance = false"),
        ({"beta": -1.0}, r"mutual\.beta: .*angle = false"),
        ({"samples": 2}, r"mutual\.samples: expected 3…128 pixels, got 2"),
        ({"samples": 4096}, r"mutual\.samples: expected 3…128 pixels, got 4096"),
        ({"huber_delta": 0.0}, r"mutual\.huber_delta: expected a number above 0"),
        ({"relation": "kl"}, r"mutual\.relation: expected structure, point or none, got kl"),
        ({"distance": False, "angle": False}, r"mutual\.relation: expected the distance or the angle loss"),
        ({"level_weights": (0.6, 0.2)}, r"mutual\.level_weights: expected weights of at least 0 that sum to 1"),
        ({"level_weights": ()}, r"mutual\.level_weights"),
    ],
)
def test_options_that_make_no_sense_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MutualOptions(**changed)


@pytest.mark.parametrize(
    ("networks", "one_network", "message"),
    [
        ([Tiny(0)], False, "expected 3 networks with one_network = False, got 1"),
        (three(), True, "expected 1 networks with one_network = True, got 3"),
        ([Tiny(0), Tiny(1), Tiny(1)], False, "start differently, got the same numbers in networks 1 and 2: build each with its own seed"),
        ([Tiny(0), Tiny(1), Tiny(2, width=4)], False, "same structure"),
        ([Tiny(0), Tiny(1), Tiny(2, has_background=True)], False, "same structure"),
        ([Tiny(0, dropout=0.0)], True, r"mutual\.one_network: expected a network with dropout"),
    ],
)
def test_networks_that_cannot_teach_each_other_are_refused(networks: list[nn.Module], one_network: bool, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        learning(MutualOptions(one_network=one_network), networks)
