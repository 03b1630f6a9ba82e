"""Peers by turns on one slide: a point per peer and round, with its costs and how far its mask agrees. Knows no flags."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import ServingError

from .errors import BenchError
from .peers_ratios import agreement
from .peers_table import NO_SERVER, Peer, Server, Task, empty
from .peers_tree import Cost, measure_command


@dataclass(frozen=True)
class Setup:
    """What is the same for every run.

    Attributes:
        slide: of the peers with a network.
        null_slide: of those without: larger, since nothing but reading and writing takes time there.
        folder: of environments, networks and masks.
        limit_s: longest run of a peer.
        int8_max_miou_loss: as of `Task`.
    """

    slide: Path
    null_slide: Path
    networks: Path
    folder: Path
    limit_s: float
    int8_max_miou_loss: float = 1.0


def turns(peers: Sequence[str], rounds: int) -> list[tuple[str, int]]:
    """(peer, round) by turns, every other round backwards: what drifts hits all alike."""
    return [(peer, number) for number in range(rounds) for peer in (peers if number % 2 == 0 else reversed(peers))]


def measure_peer(name: str, peer: Peer, number: int, setup: Setup) -> dict[str, Any]:
    """One run as a point; one that fails holds the reason under "failed"."""
    is_null = name.endswith("-null")
    slide = setup.null_slide if is_null else setup.slide
    # By the slide: a reference's mask that an earlier run left of another slide is nothing to agree with.
    task = Task(slide, setup.networks, setup.folder, setup.folder / "runs" / slide.stem / name, setup.int8_max_miou_loss)
    try:
        made = peer.prepare(task)
        empty(task.output)
        return {"peer": name, "round": number, "slide": task.slide.name, **_run(peer, task, setup.limit_s), **made}
    except (BenchError, ServingError) as error:
        return {"peer": name, "round": number, "slide": task.slide.name, "failed": str(error)}


def _run(peer: Peer, task: Task, limit_s: float) -> dict[str, Any]:
    with _served(peer, task) as server:
        cost = measure_command(
            peer.command(task, server), environment=threads(), beside=[server.pid] if server.pid else [], limit_s=limit_s
        )
    answer = peer.read(task, cost.output)
    share, compared = _agreement(peer, task, answer.labels)
    return {
        "tiles": answer.tiles,
        "work_s": round(answer.work_s, 3),
        "tiles_per_s": round(answer.tiles / answer.work_s, 3),
        **_costs(cost, answer.tiles),
        "agreement": share,
        "compared": compared,
    }


def _costs(cost: Cost, tiles: int) -> dict[str, float]:
    return {
        "wall_s": cost.wall_s,
        "cpu_s": cost.cpu_s,
        "cpu_s_per_1000_tiles": round(cost.cpu_s / tiles * 1e3, 3),
        "peak_mb": cost.peak_mb,
    }


def threads() -> dict[str, str]:
    """Every peer may use every core that this process may, whatever the shell says of OpenMP."""
    return {"OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}


@contextmanager
def _served(peer: Peer, task: Task) -> Iterator[Server]:
    if peer.serve is None:
        yield NO_SERVER
        return
    with peer.serve(task) as server:
        yield server


def _agreement(peer: Peer, task: Task, labels: npt.NDArray[np.uint8] | None) -> tuple[float | None, float | None]:
    """With the mask that the reference left in its own folder; None where there is none yet."""
    if labels is None or not peer.reference:
        return None, None
    reference = task.output.parent / peer.reference / "labels.npy"
    if not reference.is_file():
        return None, None
    share, compared = agreement(np.load(reference), labels)
    return None if share is None else round(share, 6), round(compared, 4)
