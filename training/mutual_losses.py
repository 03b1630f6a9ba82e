"""The losses of ARML's mutual learning (§2.3–2.4, eq. 4–8) for one network and its two peers. Knows logits and vectors, no network.

Peers teach and are detached here. Half precision is computed in float32. Where the paper sums, means are taken: over pixels in eq. 4, over pairs
in eq. 6 and over triplets in eq. 7 (as RKD does, whose losses these are: Park et al. 2019, eq. 4–8), so that λ, α and β mean the same for
every size of image and sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# Of the mean distance: vectors nearer to each other than this count as nearly in one place. A direction between such vectors says nothing, and its
# gradient, 1 / distance, is without bound.
_NEAR = 1e-3


def voting_weights(peer_b_logits: Tensor, peer_c_logits: Tensor, omega: float) -> Tensor:
    """Eq. 4's weight of each pixel: ω where both peers' strongest channel is the same, 1/ω where not.

    Args:
        peer_b_logits: (B, K, H, W); peer_c_logits: the same.
        omega: at least 1. ∞ weighs 1 and 0: pixels that the peers disagree on are left out (table 3's last row).

    Returns:
        (B, H, W), float32 or the logits' wider type.
    """
    agree = peer_b_logits.argmax(dim=1) == peer_c_logits.argmax(dim=1)
    high, low = (1.0, 0.0) if math.isinf(omega) else (omega, 1 / omega)
    dtype = torch.promote_types(peer_b_logits.dtype, torch.float32)
    return torch.full(agree.shape, low, dtype=dtype, device=agree.device).masked_fill(agree, high)


def weighted_voting_loss(logits_a: Tensor, target: Tensor, weights: Tensor, ignore_index: int) -> Tensor:
    """Eq. 4: cross-entropy, each pixel times its weight; the paper's sum over pixels is here the mean over those that count.

    The mean divides by the number of pixels, not by the weights' sum: agreement of the peers raises the loss.

    Args:
        logits_a: (B, K, H, W).
        target: int64 (B, H, W), 0…K − 1 or `ignore_index`.
        weights: (B, H, W), at least 0; no gradient goes through them.

    Returns:
        scalar; 0, with a gradient path, where no pixel counts.
    """
    terms = functional.cross_entropy(_wide(logits_a), target, ignore_index=ignore_index, reduction="none")
    return (weights.detach() * terms).sum() / (target != ignore_index).sum().clamp(min=1)


def draw_samples(valid: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The pixels that pairs and triplets are formed of: uniformly drawn from all that count in the batch, without replacement.

    Images, classes and neighborhood play no part; a batch with fewer pixels than `count` gives all of them. A triplet costs, and triplets are
    the cube of the pixels: 64 pixels are 250,000, of 10⁶ in a batch. The paper says "samples" and not how many.

    Args:
        valid: bool (B, H, W).
        count: at most so many; 128 at most, or angles take gigabytes.
        generator: on the CPU whatever the device, so that the draw is the same there.

    Returns:
        int64 (n,), n ≤ count: indices into the flattened (B, H, W). Read the same ones in all networks: `take_samples`.
    """
    candidates = valid.flatten().nonzero()[:, 0]
    chosen = torch.randperm(len(candidates), generator=generator)[:count]
    return candidates[chosen.to(candidates.device)]


def take_samples(logits: Tensor, positions: Tensor) -> Tensor:
    """Logits (B, K, H, W) at flat positions (n,) of (B, H, W) → vectors (n, K)."""
    return _wide(logits.permute(0, 2, 3, 1).flatten(0, 2)[positions])


def point_loss(vectors_a: Tensor, vectors_b: Tensor, vectors_c: Tensor) -> Tensor:
    """Eq. 5: ½ · mean over vectors of ‖sm(a) − sm(b)‖₂ + ‖sm(a) − sm(c)‖₂; logits (N, K) each. 0 for no vector."""
    if len(vectors_a) == 0:
        return _nothing(vectors_a)
    own = _wide(vectors_a).softmax(dim=1)
    gaps: list[Tensor] = [torch.linalg.vector_norm(own - _wide(peer.detach()).softmax(dim=1), dim=1) for peer in (vectors_b, vectors_c)]
    return 0.5 * (gaps[0] + gaps[1]).mean()


def distance_loss(vectors_a: Tensor, vectors_b: Tensor, vectors_c: Tensor, delta: float = 1.0) -> Tensor:
    """Eq. 6: ½ · mean over pairs i ≠ j of H(D(a), D(b)) + H(D(a), D(c)); 0 for fewer than two vectors.

    D is the Euclidean distance, in each network divided by its mean over the pairs that are apart (RKD: networks may differ in scale).

    Args:
        vectors_a: (N, K); vectors_b, vectors_c: the same positions of the peers.
        delta: where the Huber loss H turns from a parabola into a line.
    """
    if len(vectors_a) < 2:
        return _nothing(vectors_a)
    return _against_peers(_relative_distances, (vectors_a, vectors_b, vectors_c), delta)


def angle_loss(vectors_a: Tensor, vectors_b: Tensor, vectors_c: Tensor, delta: float = 1.0) -> Tensor:
    """Eq. 7: ½ · mean over triplets i ≠ j ≠ k ≠ i of H(A(a), A(b)) + H(A(a), A(c)); 0 for fewer than three vectors.

    A is the cosine of the angle at the middle vertex j, ⟨(xᵢ − xⱼ)/‖·‖, (xₖ − xⱼ)/‖·‖⟩. Vectors nearer than a thousandth of their network's mean
    distance are divided by that instead of by their own: A fades to 0 where i and j coincide.

    Args:
        vectors_a: (N, K); vectors_b, vectors_c: the same positions of the peers. Takes N³ numbers a few times.
        delta: of the Huber loss H.
    """
    if len(vectors_a) < 3:
        return _nothing(vectors_a)
    count = len(vectors_a)
    # The mean is over N³ cosines; those that are of no triplet are 0 in all networks.
    return _against_peers(_angles, (vectors_a, vectors_b, vectors_c), delta) * (count * count / ((count - 1) * (count - 2)))


def structure_loss(
    vectors_a: Tensor, vectors_b: Tensor, vectors_c: Tensor, alpha: float = 30.0, beta: float = 60.0, delta: float = 1.0
) -> Tensor:
    """Eq. 8: α · distance loss + β · angle loss; one whose factor is 0 is not computed. Vectors (N, K)."""
    loss = _nothing(vectors_a)
    if alpha > 0:
        loss = loss + alpha * distance_loss(vectors_a, vectors_b, vectors_c, delta)
    if beta > 0:
        loss = loss + beta * angle_loss(vectors_a, vectors_b, vectors_c, delta)
    return loss


def _against_peers(relate: Callable[[Tensor], Tensor], vectors: tuple[Tensor, Tensor, Tensor], delta: float) -> Tensor:
    """½ Σ over both peers of the mean Huber loss between a relation of the first network's vectors and of the peer's."""
    first, *peers = vectors
    with torch.autocast(first.device.type, enabled=False):
        own = relate(_wide(first))
        losses = [functional.huber_loss(own, relate(_wide(peer.detach())), delta=delta) for peer in peers]
        return 0.5 * (losses[0] + losses[1])


def _relative_distances(vectors: Tensor) -> Tensor:
    """Distances of the N(N − 1)/2 pairs, divided by the mean of those above 0; all 0 where all vectors coincide."""
    first, second = torch.triu_indices(len(vectors), len(vectors), offset=1, device=vectors.device)
    distances: Tensor = torch.linalg.vector_norm(vectors[first] - vectors[second], dim=1)
    return distances / _mean_above_zero(distances)


def _angles(vectors: Tensor) -> Tensor:
    """Cosines at the middle vertex, (N, N, N) ordered j, i, k; 0 where the three are not three different vectors."""
    gaps = vectors[None] - vectors[:, None]  # [j, i] = xᵢ − xⱼ
    lengths = torch.linalg.vector_norm(gaps, dim=2, keepdim=True)
    directions = gaps / torch.maximum(lengths, _NEAR * _mean_above_zero(lengths.detach()))
    cosines = directions @ directions.transpose(1, 2)  # [j, i, k]
    same = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    return cosines.masked_fill(same[:, :, None] | same[:, None, :] | same[None], 0.0)


def _mean_above_zero(distances: Tensor) -> Tensor:
    """Scalar; 1 where no distance is above 0."""
    apart = (distances > 0).sum()
    return torch.where(apart > 0, distances.sum() / apart.clamp(min=1), 1.0)


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _nothing(vectors: Tensor) -> Tensor:
    """0 with a gradient path."""
    return _wide(vectors).sum() * 0
