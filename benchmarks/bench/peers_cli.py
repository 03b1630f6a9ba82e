"""`histoserve bench peers`: the same slide and weights through other tools, side by side. Knows flags and words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from clients.frame import slide_mpp
from clients.slide import open_slide

from ..repeated_slide import write_repeated
from .command_line import command_of
from .errors import BenchError
from .peers_environment import make_networks
from .peers_ratios import RATIOS, by_peer, ratios_of, summarize, verdict
from .peers_run import Setup, measure_peer, turns
from .peers_table import PEERS
from .results import Results

_SAME_SCALE = 0.01  # as `clients.frame`: native pixels are used within this
_MPP = 0.5
_PACKAGES = ("torch", "timm", "openslide-python", "openslide-bin", "tifffile", "imagecodecs")


@dataclass(frozen=True)
class Flags:
    """Run other tools and histoserve on one slide with one network, by turns. Ratios are the result.

    Each peer is a process of its own: wall, CPU and memory of all it starts, servers included. Interrupted, the same command goes on.
    """

    slide: Path | None = None
    """Of the peers with a network; read at full resolution. Without it one is generated (--slide-px)."""
    slide_px: tuple[int, int] = (2_240, 2_912)
    """Width and height of the generated one: 130 tiles of 224 px. What a slide costs once weighs less on a larger one."""
    output: Path = Path("out/bench-peers.json")
    """Result file."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Which: openslide-torch openslide-onnxruntime tiatoolbox fastapi memory local served served-int8 openslide-null tiatoolbox-null served-null."""
    rounds: int = 3
    """Turns; medians and quartiles are told."""
    checkpoint: Path | None = None
    """Weights of the network (`histoserve train`); without it Swin-T + FPN with seeded ones, which cost the same time."""
    encoder: str = "swin_tiny_patch4_window7_224"
    """Of the seeded network."""
    tile_px: int = 224
    """Of the seeded network; the stride too."""
    null_slide: Path | None = None
    """Of the peers without a network; without it one is generated (--null-px)."""
    null_px: tuple[int, int] = (12_000, 11_000)
    """Width and height of the generated slide."""
    folder: Path = Path("out/peers")
    """Gets the peers' environments, the networks and the masks; kept for the next run."""
    int8_max_miou_loss: float = 1.0
    """Points of mean IoU against fp32's own labels that export's gate lets served-int8 lose; more measures its speed, whatever it says. A refusal is told."""
    limit_s: float = 3600.0
    """Longest run of one peer; one that takes longer is ended and told as failed."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Measure anew what the result file holds."""

    def __post_init__(self) -> None:
        """Wrong usage: tyro prints the ValueError and exits with 2."""
        if unknown := [peer for peer in self.peers if peer not in PEERS]:
            raise ValueError(f"--peers {' '.join(unknown)}: expected some of {' '.join(PEERS)}")
        if self.rounds < 1:
            raise ValueError(f"--rounds {self.rounds}: expected at least 1")


def run(flags: Flags) -> None:
    """Measure, write, print.

    Raises:
        BenchError: the networks cannot be made, or every peer failed.
        ClientError: the slide cannot be read.
    """
    console = Console()
    slide = flags.slide or _generated(flags.folder, *flags.slide_px, _MPP)
    arguments = network_arguments(flags, slide)
    with console.status("making the networks"):
        notes = make_networks(flags.folder / "networks", *arguments)
    _require_scale(slide, notes["mpp"])
    setup = Setup(slide, _null_slide(flags, slide), flags.folder / "networks", flags.folder, flags.limit_s, flags.int8_max_miou_loss)
    # Neither the peers nor the rounds: more of both can be measured later into the same file.
    settings = {"slide": slide.name, "null_slide": setup.null_slide.name, **notes}
    results = Results.begin(flags.output, "bench-peers", command_of("peers", flags), settings, packages=_PACKAGES, fresh=flags.fresh)
    for name, number in turns(flags.peers, flags.rounds):
        with console.status(f"{name}, round {number + 1} of {flags.rounds}"):
            point = results.measure(f"{name} {number}", lambda name=name, number=number: measure_peer(name, PEERS[name], number, setup))  # type: ignore[misc]
        console.print(_line(point), soft_wrap=True, highlight=False)
    points = [*results.points.values()]
    results.finish(ratios_of(by_peer(points)))
    _show(console, points, results.content["ratios"])
    if all("failed" in point for point in points):
        raise BenchError("peers: expected at least one to run, every one failed; the reasons stand above")


def network_arguments(flags: Flags, slide: Path) -> list[str]:
    """For `make_networks`: a seeded network takes the slide's scale; the null one is made where a peer wants it."""
    null = [] if any(peer.endswith("-null") for peer in flags.peers) else ["--no-null"]
    if flags.checkpoint is not None:
        return ["--mpp", "0", "--checkpoint", str(flags.checkpoint.resolve()), *null]
    with open_slide(slide) as opened:
        mpp_x, mpp_y = slide_mpp(opened, None)
    return ["--mpp", f"{(mpp_x + mpp_y) / 2:.4f}", "--encoder", flags.encoder, "--tile-px", str(flags.tile_px), *null]


def _require_scale(path: Path, mpp: float) -> None:
    """Raises BenchError: a loop at full resolution would not see what the network was trained for."""
    with open_slide(path) as slide:
        found = slide_mpp(slide, None)
    if any(abs(value / mpp - 1) > _SAME_SCALE for value in found):
        raise BenchError(
            f"{path}: expected {mpp:g} µm per pixel, the network's scale, got {found[0]:g}: give another slide or --checkpoint"
        )


def _null_slide(flags: Flags, slide: Path) -> Path:
    """The other slide where no peer wants this one."""
    if flags.null_slide is not None:
        return flags.null_slide
    if not any(peer.endswith("-null") for peer in flags.peers):
        return slide
    with open_slide(slide) as opened:
        mpp = slide_mpp(opened, None)[0]
    return _generated(flags.folder, *flags.null_px, mpp)


def _generated(folder: Path, width: int, height: int, mpp: float) -> Path:
    path = folder / f"repeated-{width}x{height}.tiff"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        write_repeated(partial, width, height, mpp)
        partial.rename(path)
    return path


def _line(point: dict[str, Any]) -> str:
    head = f"{point['peer']} {point['round'] + 1}: "
    if "failed" in point:
        return head + f"failed: {point['failed']}"
    same = "" if point["agreement"] is None else f", agrees {point['agreement']:.4f}"
    return (
        head
        + f"{point['tiles_per_s']:.1f} tiles/s, {point['cpu_s_per_1000_tiles']:.1f} CPU-s per 1,000 tiles, {point['peak_mb']:.0f} MB{same}"
    )


def _show(console: Console, points: list[dict[str, Any]], ratios: dict[str, float | None]) -> None:
    table = Table("peer", "tiles/s", "of them quartiles", "CPU-s / 1,000 tiles", "peak MB", "wall s", "agreement", title="peers")
    for name, runs in by_peer(points).items():
        found = summarize(runs)
        if not found:
            table.add_row(name, "failed")
            continue
        speed = found["tiles_per_s"]
        rest = [f"{found[figure][1]:.1f}" for figure in ("cpu_s_per_1000_tiles", "peak_mb", "wall_s")]
        table.add_row(
            name, f"{speed[1]:.2f}", f"{speed[0]:.2f}…{speed[2]:.2f}", *rest, f"{found['agreement'][1]:.4f}" if "agreement" in found else ""
        )
    console.print(table)
    for name, value in ratios.items():
        ratio = RATIOS[name]
        goal = "" if ratio.goal is None else f" (goal {'≤' if ratio.at_most else '≥'} {ratio.goal:g})"
        console.print(f"{name} = {'?' if value is None else f'{value:.3f}'}{goal} {verdict(ratio, value)}", highlight=False)
