"""ARML's mutual learning as a Lightning module (§2.3–2.4): three segmenters learn pseudo-masks and each other. Knows not where data lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.contract import TissueTask

from . import torchvision_schemas  # noqa: F401  must precede lightning
from .channel_targets import channel_targets
from .datasets.placement import IGNORE_LABEL
from .encoder import normalize
from .errors import DataError, RecipeError
from .mutual_losses import draw_samples, point_loss, structure_loss, take_samples, voting_weights, weighted_voting_loss
from .schedule import Schedule, make_optimizer

import lightning  # isort: skip
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig  # isort: skip
from timm.layers.drop import DropPath  # isort: skip

_MAX_SAMPLES = 128
_RANDOM_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class MutualOptions:
    """What each of the three networks minimizes (eq. 9)."""

    omega: float = 2.0
    """ω of eq. 4, at least 1; inf leaves out the pixels that the peers disagree on (table 3)."""
    voting: bool = True
    """Samples weighted voting; without it every pixel weighs 1, as ω = 1."""
    relation: Literal["structure", "point", "none"] = "structure"
    """Samples relation mining by eq. 8 or eq. 5; none trains eq. 4 alone, with a factor of 1 (tables 2 and 4)."""
    weight: float = 0.2
    """λ of eq. 9, 0…1."""
    distance: bool = True
    """Eq. 6 in eq. 8."""
    angle: bool = True
    """Eq. 7 in eq. 8."""
    alpha: float = 30.0
    """Of the distance loss in eq. 8, above 0."""
    beta: float = 60.0
    """Of the angle loss in eq. 8, above 0."""
    samples: int = 64
    """Pixels of a batch that relations are taken over, 3…128: triplets are their cube."""
    huber_delta: float = 1.0
    """Where H in eq. 6 and 7 turns from a parabola into a line, above 0."""
    level_weights: tuple[float, ...] = (0.6, 0.2, 0.2)
    """Of the deepest pseudo-mask and of each further one, where a batch holds several; their sum is 1. One pseudo-mask weighs 1."""
    one_network: bool = False
    """The published code's variant: one network passes three times, its dropout makes the passes differ, and only the first pass learns."""

    def __post_init__(self) -> None:
        # Here, not where it is used: stage 1 would have been trained by then.
        _expect(self.omega >= 1, "omega", "at least 1", self.omega)
        _expect(0 <= self.weight <= 1, "weight", "a number within 0…1", self.weight)
        _expect(self.alpha > 0, "alpha", "a number above 0 (distance = false leaves the distance loss out)", self.alpha)
        _expect(self.beta > 0, "beta", "a number above 0 (angle = false leaves the angle loss out)", self.beta)
        _expect(3 <= self.samples <= _MAX_SAMPLES, "samples", f"3…{_MAX_SAMPLES} pixels", self.samples)
        _expect(self.huber_delta > 0, "huber_delta", "a number above 0", self.huber_delta)
        _expect(self.relation in ("structure", "point", "none"), "relation", "structure, point or none", self.relation)
        structured = self.distance or self.angle or self.relation != "structure"
        _expect(structured, "relation", "the distance or the angle loss with structure, or relation = none", "neither")
        levels = self.level_weights
        fits = bool(levels) and min(levels) >= 0 and abs(sum(levels) - 1) < 1e-6
        _expect(fits, "level_weights", "weights of at least 0 that sum to 1", levels)


class MutualLearning(lightning.LightningModule):
    """Networks of one structure, each trained on the pseudo-masks by eq. 9 with the other two as peers: (1 − λ)·L_swv + λ·L_st.

    Peers are detached in the losses and no network shares a parameter with another, so one optimizer over all of them takes the very steps that three would:
    SGD and AdamW treat every parameter by itself, and gradients are not clipped, which would couple them by their common norm.

    Pixels for the relation loss are drawn anew for every batch from those that count in its (deepest) target, the same in all networks.

    Args:
        networks: three of one structure that start differently, each normalized (B, 3, H, W) → logits (B, K, h, w) and with an attribute
            `has_background`; with `one_network` one that has dropout.
        seed: of the drawn pixels.

    Raises:
        RecipeError: another number of networks, or networks that differ in structure, start alike, or never differ between passes.
    """

    def __init__(
        self, networks: Sequence[nn.Module], task: TissueTask, schedule: Schedule, options: MutualOptions, total_steps: int, seed: int
    ) -> None:
        super().__init__()
        check_networks(networks, options.one_network)
        self.networks = nn.ModuleList(networks)
        self.has_background = bool(networks[0].has_background)
        self.task = task
        self.schedule = schedule
        self.options = options
        self.total_steps = total_steps
        self.generator = torch.Generator().manual_seed(seed)

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        votes, relations = self.losses(batch)
        self.log("voting", votes.detach().mean(), prog_bar=True)
        if self.options.relation == "none":
            return votes.sum()
        self.log(self.options.relation, relations.detach().mean(), prog_bar=True)
        return ((1 - self.options.weight) * votes + self.options.weight * relations).sum()

    def losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """L_swv and L_st (or L_pt; 0 without a relation) of each learning network: (3,) each, or (1,) with `one_network`.

        Args:
            batch: image uint8 (B, 3, H, W), target int64 (B, H, W) of 0…C or `IGNORE_LABEL`, and where there are several pseudo-masks
                more_targets int64 (B, N, H, W), in the order of `level_weights` from the second on.

        Raises:
            DataError: more or fewer pseudo-masks than `level_weights`, where there are several.
        """
        targets = self._targets(batch)
        passes = self._passes(batch)
        learning = 1 if self.options.one_network else len(passes)
        positions = draw_samples(targets[0][1] != IGNORE_LABEL, self.options.samples, self.generator)
        votes, relations = [], []
        for index in range(learning):
            own, peers = passes[index], [logits for other, logits in enumerate(passes) if other != index]
            votes.append(self._voting(own, peers, targets))
            relations.append(self._relation(own, peers, positions))
        return torch.stack(votes), torch.stack(relations)

    def _passes(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Three logits of the target's size, (B, K, H, W)."""
        images = normalize(batch["image"], self.task.normalization.mean, self.task.normalization.std)
        size = batch["target"].shape[1:]
        if self.options.one_network:
            network = self.networks[0]
            logits = [network(images)]
            with torch.no_grad():
                logits += [network(images), network(images)]
        else:
            logits = [network(images) for network in self.networks]
        return [functional.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in logits]

    def _targets(self, batch: dict[str, Tensor]) -> list[tuple[float, Tensor]]:
        """Weight and channel targets (B, H, W) of each pseudo-mask, the deepest first."""
        deepest = channel_targets(batch["target"], self.has_background)
        if "more_targets" not in batch:
            return [(1.0, deepest)]
        more = channel_targets(batch["more_targets"], self.has_background).unbind(dim=1)
        weights = self.options.level_weights
        if len(weights) != 1 + len(more):
            raise DataError(
                f"batch: expected {len(weights)} pseudo-masks, as mutual.level_weights has, got {1 + len(more)}: give each a weight"
            )
        return list(zip(weights, (deepest, *more), strict=True))

    def _voting(self, own: Tensor, peers: list[Tensor], targets: list[tuple[float, Tensor]]) -> Tensor:
        weights = voting_weights(peers[0], peers[1], self.options.omega if self.options.voting else 1.0)
        losses = [level * weighted_voting_loss(own, target, weights, IGNORE_LABEL) for level, target in targets]
        return torch.stack(losses).sum()

    def _relation(self, own: Tensor, peers: list[Tensor], positions: Tensor) -> Tensor:
        options = self.options
        if options.relation == "none":
            return own.new_zeros(())
        a, b, c = (take_samples(logits, positions) for logits in (own, *peers))
        if options.relation == "point":
            return point_loss(a, b, c)
        alpha, beta = options.alpha if options.distance else 0.0, options.beta if options.angle else 0.0
        return structure_loss(a, b, c, alpha, beta, options.huber_delta)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return make_optimizer(self.networks.parameters(), self.schedule, self.total_steps)


def check_networks(networks: Sequence[nn.Module], one_network: bool) -> None:
    """Whether these networks can learn from each other.

    Raises:
        RecipeError: as `MutualLearning`.
    """
    expected = 1 if one_network else 3
    if len(networks) != expected:
        raise RecipeError(f"mutual learning: expected {expected} networks with one_network = {one_network}, got {len(networks)}")
    if one_network:
        if not any(_is_random(module) for module in networks[0].modules()):
            raise RecipeError(
                "mutual.one_network: expected a network with dropout, got one whose three passes are the same: take one with dropout, "
                "or train three networks"
            )
        return
    states = [network.state_dict() for network in networks]
    kinds = {(bool(network.has_background), *((name, value.shape) for name, value in network.state_dict().items())) for network in networks}
    if len(kinds) != 1:
        raise RecipeError(
            "mutual learning: expected three networks of the same structure, got different ones: build them from the same options"
        )
    for first, second in ((0, 1), (0, 2), (1, 2)):
        if all(torch.equal(states[first][name], states[second][name]) for name in states[first]):
            raise RecipeError(
                f"mutual learning: expected three networks that start differently, got the same numbers in networks {first} and {second}: "
                "build each with its own seed"
            )


def _is_random(module: nn.Module) -> bool:
    if isinstance(module, DropPath):
        return bool(module.drop_prob)
    return isinstance(module, _RANDOM_LAYERS) and module.p > 0


def _expect(holds: bool, option: str, expected: str, got: object) -> None:
    if not holds:
        raise RecipeError(f"mutual.{option}: expected {expected}, got {got}")
